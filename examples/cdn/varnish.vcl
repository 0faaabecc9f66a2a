vcl 4.1;

import std;

# Varnish 7.1 or later as a cache for the pictures of a Blossom gateway, for example https://cdn.example.com.
#
# To replace: host and port of the gateway. Varnish listens where it is told to: varnishd -a :8080 -f varnish.vcl
# The gateway has to believe this machine: BLOSSOM_TRUSTED_PROXIES=127.0.0.1

backend gateway {
    .host = "127.0.0.1";
    .port = "8765";
    .connect_timeout = 5s;
}

sub vcl_recv {
    if (req.url !~ "^/(image|generated)/") {
        return (synth(404));  # everything else, /v1 among it, is not for viewers
    }
    if (req.method !~ "^(GET|HEAD|OPTIONS)$") {
        return (synth(405));
    }
    # What the viewer sent is the viewer's invention. Behind a TLS proxy use the PROXY protocol, so that this is
    # the viewer's address: varnishd -a :8443,PROXY
    set req.http.X-Forwarded-For = client.ip;
    unset req.http.Cookie;

    # Pictures in several formats have `Vary: Accept`. Every browser has an Accept of its own, but only webp
    # decides; one with a weight for it is left for the gateway to read.
    if (req.http.Accept ~ "(?i)(^|,)\s*image/webp\s*(,|$)") {
        set req.http.Accept = "image/webp";
    } else if (req.http.Accept !~ "(?i)image/webp") {
        unset req.http.Accept;
    }

    # What others append to a URL (fbclid, utm_source, v) changes nothing at the gateway: it is taken off. With exp
    # or sig, or anything unusual, the URL stays as it came.
    if (req.url ~ "^[^?]*\?([\w.~-]+(=[\w.~%+:/@,!*-]*)?(&|$))*$" && req.url !~ "(?i)[?&](exp|sig)([=&]|$)") {
        set req.url = regsub(req.url, "\?.*$", "");
    }

    # The cache is for a plain GET. The gateway itself answers signed URLs, requests with a key, and HEAD, which
    # Varnish would turn into a GET and the gateway count as a view.
    if (req.method == "HEAD") {
        unset req.http.Range;  # as HTTP has it; Varnish would look for it in the body that is not there
    }
    if (req.method != "GET" || req.http.Authorization || req.url ~ "\?") {
        return (pass);
    }
    return (hash);
}

sub vcl_hash {
    # As it came, and without the host: the gateway answers the same under each.
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    # Varnish would serve a picture for 10 s more while it fetches the next: it may have expired, or been
    # deleted. Once stale, it is kept only to be asked for with If-None-Match.
    set beresp.grace = 0s;
    set beresp.keep = 10m;
    if (bereq.uncacheable || beresp.ttl <= 0s || beresp.status >= 400
        || beresp.http.Cache-Control ~ "(?i)(private|no-cache|no-store)") {
        # For two minutes nobody waits for another's answer to this URL, since it is not shared.
        set beresp.uncacheable = true;
        set beresp.ttl = 120s;
        return (deliver);
    }
    unset beresp.http.X-Request-Id;  # it would be that of the request that filled the cache
    return (deliver);
}

sub vcl_deliver {
    # Cache-Status is RFC 9211; the words of the log are those of nginx, as `blossom stats import` reads them.
    if (obj.uncacheable) {
        set resp.http.Cache-Status = "varnish; fwd=bypass";
        std.log("cache:-");
    } else if (obj.hits > 0) {
        set resp.http.Cache-Status = "varnish; hit";
        std.log("cache:HIT");
    } else {
        set resp.http.Cache-Status = "varnish; fwd=uri-miss";
        std.log("cache:MISS");
    }
    unset resp.http.X-Varnish;
    return (deliver);
}

sub vcl_backend_error {
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.Content-Type = "text/plain";
    set beresp.body = "The pictures cannot be reached at the moment." + {"
"};
    set beresp.http.Retry-After = "5";
    set beresp.ttl = 0s;
    set beresp.grace = 0s;
    return (deliver);
}

sub vcl_synth {
    set resp.http.Cache-Control = "no-store";
    set resp.http.Content-Type = "text/plain";
    if (resp.status == 405) {
        set resp.http.Allow = "GET, HEAD, OPTIONS";
    }
    set resp.body = resp.reason + {"
"};
    return (deliver);
}
