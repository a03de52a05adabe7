-- wrk sends the requests that a file holds, each after a line with its length, in turn. Prints its figures as JSON.
local requests, current = {}, 0

function init(args)
    local file = assert(io.open(args[1], "rb"))
    while true do
        local length = file:read("*n")
        if not length then break end
        file:read(1)
        requests[#requests + 1] = file:read(length)
    end
    file:close()
end

function request()
    current = current % #requests + 1
    return requests[current]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format('{"count": %d, "seconds": %.6f, "errors": %d, "p50_us": %d, "p99_us": %d}',
        summary.requests, summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
