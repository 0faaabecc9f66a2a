"""How many starts a server takes in a window, learned from what it refuses."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["LearnedRate"]

_WINDOWS_S = (1.0, 10.0, 60.0, 600.0, 3600.0)  # the usual ones
_REMEMBERED = 10_000  # starts
_MARGIN = 1.005  # as of a stated limit: servers count arrivals and we count starts
_HASTE = 10  # times the rate, at most, so that not a whole burst is refused if the server takes less by now
_CATCH_UP_S = 0.01  # timers fire this late on a busy machine; starts may catch up
_BURST_S = 1.0  # so much of the rate may start at once, if the server was seen to take as many
_STEP = 50  # a probe tries one start more in so many first,
_FASTER = 3  # then so many times as many
_ANSWER_S = 0.02  # a refusal takes at least this long,
_PATIENCE = 3  # and one that has not come in so many times the usual time will not come
_REFUSED = 0.005  # share of the starts that probes may cost,
_LOST = 0.03  # and share of the time
_DECLINE = 32  # one start less in so many, if the server refuses what it took before
_DECLINES = 8  # so many in a row have not helped: it is not the rate that is refused
_ROUNDS = 5  # so many refusals, at one start in so many,
_ONE_IN = 10  # are not for the rate, either, which is kept to since the first
_DISTRUST_S = 600.0  # so long nothing is learned then


class LearnedRate:
    """``amount`` starts in ``per_s`` seconds; None while the server has refused nothing for its rate.

    A refusal tells how many starts were accepted in the window before it. From then on no window holds more,
    and they are spread over it as evenly as the server was seen to need. Now and then a probe exceeds the
    amount by one start in fifty. If the server takes that for two windows, it has changed, and the amount
    grows until the next refusal. The more a probe costs, in refusals and pauses, the longer is the rest
    before the next one.

    ``starts`` are the times of the starts that were not refused, oldest first.
    """

    def __init__(self) -> None:
        self.starts: deque[float] = deque(maxlen=_REMEMBERED)
        self._trusted_at = -math.inf
        self._know_nothing()

    def forget(self) -> None:
        """Starts anew."""
        self.starts.clear()
        self._know_nothing()

    def _know_nothing(self) -> None:
        self.amount: int | None = None
        self.per_s: float = _WINDOWS_S[0]
        self._known = 0  # the amount without what is being tried
        self._base = 0  # what was known when the probe began
        self._sound = 0  # what was known before that, and was not refused until then
        self._declines = 0
        self._burst = 1.0  # starts that the server was seen to take at once
        self._even = -math.inf  # when the next start is due if all were spread evenly

        self._probe_at = math.inf
        self._probed_at = -math.inf
        self._more = 0  # what the probe adds next
        self._at_once = 0  # starts of the probe that are not spread
        self._filled = False  # whether the window holds what is being tried
        self._answer_s = _ANSWER_S

        self._rounds = 0  # of refusals since something is known,
        self._taken = 0  # and starts

        self._round_ends = -math.inf  # attempts that started before belong to the last refusal
        self._falling = False  # whether that shows that the server takes less than it did
        self._resumed_at = -math.inf  # after the last pause
        self._refusals = 0  # since the last probe began,
        self._lost_s = 0.0  # and the time lost by them

    def ready_at(self, now: float) -> float:
        """When the next attempt may start: at once, if that is not after ``now``."""
        if self.amount is None:
            return -math.inf
        at = self._allowed_at(self.amount)
        if at <= now or not self._is_full(self.amount, now):
            return at
        trying = self.amount > self._known
        if trying and not self._filled:
            self._filled = True
            # Two fixed windows of the server may have shared the first of these starts.
            sure_at = self._probed_at + 2 * self.per_s if self._known == self._base else now
            self._probe_at = max(now, sure_at) + _PATIENCE * self._answer_s
        # A probe begins when a burst has just ended, so that the pause after a refusal costs no time.
        span = min(1.0, self.per_s)
        if now >= self._probe_at and (trying or at - now > span / 4 or now >= self._probe_at + span):
            self._try_more(now)
            return self._allowed_at(self.amount)
        return min(at, self._probe_at) if trying else at

    def take(self, now: float) -> None:
        """Notes a start."""
        self.starts.append(now)
        if self._at_once:
            self._at_once -= 1
        elif self.amount is not None:
            self._even = max(self._even, now) + self.per_s / self.amount
        self._taken += self.amount is not None

    def refused(self, started: float, now: float, resumes: float) -> bool:
        """Learns from the refusal of an attempt that started at ``started``, or just before that.

        ``resumes`` is when the next one starts. True if the rate explains it: the server had accepted about
        as many as before.
        """
        found = self._last_start(started)
        if found is None or now < self._trusted_at:  # long since forgotten, or not for the rate
            return False
        started = found
        new_round = started > self._round_ends
        if new_round:
            self._rounds += 1
            if self._rounds > _ROUNDS and self._taken < _ONE_IN * self._rounds:
                self._trusted_at = now + _DISTRUST_S
                self.forget()
                return False
            self._round_ends = now
            self._answer_s = max(_ANSWER_S, now - started)
            self._falling = False
            if not self._widen(started, resumes, now):
                return False
        accepted, before = self._accepted(started), self._known
        self._falling = self._falling or self.amount is None or self._fell(started)
        if self._falling:
            known = min(accepted, before or accepted)
            self._burst = min(0.9 * known, self._burst if before else math.inf)
            self._sound = min(known, self._sound) if known >= 0.9 * self._sound else 0
        elif not new_round:
            known = max(min(before, accepted), min(before, self._sound))
        else:
            known = self._without_probe(accepted)
        if self._declines > _DECLINES:
            self.forget()
        else:
            self._settle(max(1, known), now, resumes)
        return not self._falling

    def _last_start(self, until: float) -> float | None:
        """Removes the last start until then."""
        starts = self.starts.copy()
        for back, start in enumerate(reversed(starts), start=1):
            if start <= until:
                del self.starts[-back]
                return start
        return None

    def _allowed_at(self, amount: int) -> float:
        gap = self.per_s / amount
        at = -math.inf
        if not self._at_once:
            at = self._even - (min(self._burst, max(2.0, _BURST_S / gap)) - 1) * gap
        together = max(1, int(_CATCH_UP_S * _HASTE / gap))
        if len(self.starts) >= together:
            at = max(at, self.starts[-together] + together * gap / _HASTE)
        if len(self.starts) >= amount:
            at = max(at, self.starts[-amount] + self.per_s * _MARGIN)
        return at

    def _is_full(self, amount: int, now: float) -> bool:
        """Whether the window holds as many as it may, so that more could be wanted."""
        nearly = amount - amount // 64
        return len(self.starts) >= nearly and self.starts[-nearly] > now - self.per_s

    def _try_more(self, now: float) -> None:
        assert self.amount is not None  # noqa: S101 - for the type checker
        if self.amount == self._known:
            self._refusals, self._lost_s = 0, 0.0
        self._known = self.amount
        self.amount = min(self.amount + self._more, _REMEMBERED // 2)
        self._at_once = self.amount - self._known if self._takes_bursts() else 0
        self._more *= _FASTER
        self._probed_at = now
        self._filled = False

    def _without_probe(self, accepted: int) -> int:
        """The starts to allow after refusals: those accepted now, or those accepted before a probe."""
        known, base, sound = self._known, self._base, self._sound
        if self.amount != known:
            self._sound = base
            self._declines = 0
            return accepted if accepted > 1.05 * base else base
        if sound < known:  # the last probe was accepted by luck
            less = (sound + known) // 2 if sound else min(accepted, known - 1)
            return max(sound, min(less, accepted)) if self._takes_bursts() else less
        self._declines += 1
        self._sound = known - max(1, known // _DECLINE)
        return self._sound

    def _fell(self, started: float) -> bool:
        """Whether fewer were accepted before that start than were allowed."""
        allowed = float(self._known)
        if started > self._resumed_at:
            gap = self.per_s / max(1, self._known)
            allowed = min(allowed, self._burst + (started - self._resumed_at) / gap)
        return self._accepted(started) < min(0.9 * allowed, allowed - 1)

    def _takes_bursts(self) -> bool:
        """Whether a burst is refused for nothing but the rate."""
        return self._burst >= self._known / 2

    def _accepted(self, until: float) -> int:
        count = 0
        for start in reversed(self.starts.copy()):
            if start <= until - self.per_s:
                break
            count += start <= until
        return count

    def _widen(self, started: float, resumes: float, now: float) -> bool:
        """Makes the window at least as long as the pause, and so that something was accepted in it.

        False if nothing was: others have used up the server's limit.
        """
        if not any(start <= started for start in self.starts.copy()):
            return False
        for length in _WINDOWS_S:
            if length < max(self.per_s, resumes - now - _ANSWER_S):
                continue
            ratio, self.per_s = length / self.per_s, length
            self._known, self._base = int(self._known * ratio), int(self._base * ratio)
            self._sound = int(self._sound * ratio)
            if self.amount is not None:
                self.amount = int(self.amount * ratio)
            if self._accepted(started):
                break
        return True

    def _settle(self, known: int, now: float, resumes: float) -> None:
        self._refusals += 1
        self._lost_s += max(0.0, resumes - max(now, self._resumed_at, self._allowed_at(known)))
        if not self._sound:  # the server has changed, and may again
            self._refusals, self._lost_s = 0, 0.0
        self.amount = self._known = self._base = known
        self._more = max(1, known // _STEP)
        self._at_once = 0
        self._filled = False
        self._resumed_at = resumes
        if known > 1.05 * self._sound:
            self._probe_at = resumes + 2 * self.per_s
        else:
            starts = max(self._refusals, self._more) / _REFUSED
            self._probe_at = resumes + max(starts * self.per_s / known, self._lost_s / _LOST)
