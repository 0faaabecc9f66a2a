"""``blossom batch --download FOLDER``: the files of the pictures, beside their URLs."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_cli import blossom, lines


def test_files_beside_urls(tmp_path: Path) -> None:
    """One for each picture, verified; the same command fetches what is missing."""
    prompts, folder, out = tmp_path / "p.txt", tmp_path / "there" / "pictures", tmp_path / "urls.jsonl"
    prompts.write_text("a lake\na sea\n")
    command = ["batch", prompts, "--width", 32, "--height", 32, "--download", folder, "--out", out]
    assert blossom(*command).status == 0
    files = {path.name for path in folder.iterdir()}
    assert files == {f"{line['id']}.png" for line in lines(out)}
    first = folder / min(files)
    first.write_bytes(b"broken")
    again = blossom(*command)
    assert again.status == 0, again.stderr
    assert first.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == files


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Nothing is made then."""
    (tmp_path / "file").write_text("")
    (tmp_path / "p.txt").write_text("a lake\n")
    ended = blossom("batch", tmp_path / "p.txt", "--download", tmp_path / "file" / "x")
    assert ended.status == 2
    assert "name another folder" in ended.stderr
    assert not (tmp_path / "data").exists()
