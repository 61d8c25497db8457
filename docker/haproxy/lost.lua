-- Ends the sessions of a server that is lost, a moment after it left the rotation; and keeps servers in the rotation that are
-- only late because the machine is busy.
--
-- HAProxy's own `on-marked-down shutdown-sessions` does so at once. A session that is just connecting to the server then
-- is caught half-way: it never ends, and its client waits for ever (seen in 3.0.11 with a killed container). Once
-- `timeout connect` has passed nothing is connecting any more, so the grace is longer than that time-out.
--
-- A machine that is busy delays every answer, the checks' too. Servers that are late all at once are therefore not taken for
-- lost (Envoy calls that a panic threshold), until they have been for so long that both must be frozen.

local look_every_ms = 10
local grace_ms = 60
-- From when all were late first. A frozen pair is left 1.3 s after it froze.
local all_late_max_ms = 500
-- The server that does not count: it is there when the others are not. Of PostgreSQL there is none, and a standby that was
-- taken back into the rotation would be given writes.
local last_resort = "edge"

local function now_ms()
    local now = core.now()
    return now.sec * 1000 + math.floor(now.usec / 1000)
end

local function is_lost(server)
    local status = server:get_stats().status
    return status:find("^DOWN") ~= nil or status:find("^MAINT") ~= nil
end

-- Down, and because it did not answer in time: who refuses a connection is not late.
local function is_late(stats)
    return stats.status:find("^DOWN") ~= nil and stats.check_status:find("TOUT") ~= nil
end

-- Whether all servers that count are late, and whether one of them has answered its last check.
local function look_at(servers)
    local are_late, has_answered = true, false
    for name, server in pairs(servers) do
        if name ~= last_resort then
            local stats = server:get_stats()
            are_late = are_late and is_late(stats)
            has_answered = has_answered or stats.check_status:find("OK") ~= nil
        end
    end
    return are_late, has_answered
end

-- Takes servers that are late all at once back into the rotation. Their next two checks say again whether they are.
local all_late_since
local function forgive(servers)
    local are_late, has_answered = look_at(servers)
    if has_answered then
        all_late_since = nil
    elseif are_late then
        if all_late_since == nil then
            all_late_since = now_ms()
            core.Warning("all servers are late at once: the machine is taken to be busy, none is left")
        end
        if now_ms() - all_late_since < all_late_max_ms then
            for name, server in pairs(servers) do
                if name ~= last_resort then
                    server:check_force_up()
                end
            end
        end
    end
end

core.register_task(function()
    local lost_since, ended = {}, {}
    while true do
        if core.backends.checks.servers[last_resort] then
            forgive(core.backends.checks.servers)
        end
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
