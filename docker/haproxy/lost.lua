-- Ends the sessions of a server that is lost, a moment after it left the rotation.
--
-- HAProxy's own `on-marked-down shutdown-sessions` does so at once. A session that is just connecting to the server then
-- is caught half-way: it never ends, and its client waits for ever (seen in 3.0.11 with a killed container). Once
-- `timeout connect` has passed nothing is connecting any more, so the grace is longer than that time-out.

local look_every_ms = 10
local grace_ms = 60

local function now_ms()
    local now = core.now()
    return now.sec * 1000 + math.floor(now.usec / 1000)
end

local function is_lost(server)
    local status = server:get_stats().status
    return status:find("^DOWN") ~= nil or status:find("^MAINT") ~= nil
end

core.register_task(function()
    local lost_since, ended = {}, {}
    while true do
        for where, backend in pairs(core.backends) do
            for name, server in pairs(backend.servers) do
                local key = where .. "/" .. name
                if not is_lost(server) then
                    lost_since[key], ended[key] = nil, nil
                elseif lost_since[key] == nil then
                    lost_since[key] = now_ms()
                elseif not ended[key] and now_ms() - lost_since[key] >= grace_ms then
                    server:shut_sess()
                    ended[key] = true
                end
            end
        end
        core.msleep(look_every_ms)
    end
end)
