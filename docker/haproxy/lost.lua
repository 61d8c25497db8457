-- Ends the sessions of a server that is lost, a moment after it left the rotation; and keeps servers in the rotation that are
-- only late because the machine is busy.
--
-- HAProxy's own `on-marked-down shutdown-sessions` does so at once. A session that is just connecting to the server then
-- is caught half-way: it never ends, and its client waits for ever (seen in 3.0.11 with a killed container). Once
-- `timeout connect` has passed nothing is connecting any more, so the grace is longer than that time-out.
--
-- A machine that is busy delays every answer, the checks' too. A server that is late keeps its sessions until a third check is
-- late as well. Servers that are late all at once are not taken for lost (Envoy calls that a panic threshold), until they have
-- been for so long that they must be frozen.

-- Looking costs more CPU here than the checks do.
local look_every_ms = 20
local grace_ms = 60
-- Of a server that is late. At the front that is a third check and a moment: it comes `downinter` after the second. PostgreSQL is
-- checked less often, so that its sessions only end a little later.
local late_grace_ms = 210
-- From when all were late first.
local all_late_max_ms = 500
-- The server that does not count: it is there when the others are not. Of PostgreSQL there is none, and a standby that was
-- taken back into the rotation would be given writes.
local last_resort = "edge"

local function now_ms()
    local now = core.now()
    return now.sec * 1000 + math.floor(now.usec / 1000)
end

local function is_lost(stats)
    return stats.status:find("^DOWN") ~= nil or stats.status:find("^MAINT") ~= nil
end

-- How the last check ended, of a server that has checks of its own and had one.
local function last_check(stats)
    return stats.check_status or ""
end

-- Down, and because its process did not answer in time. A server that refuses a connection is not late, and neither is one
-- whose kernel does not accept it: that one's container is gone.
local function is_late(stats)
    return is_lost(stats) and last_check(stats):find("L[67]TOUT") ~= nil
end

-- Takes servers back into the rotation that are late all at once, and any late one when no other is left. Their next two checks
-- say again whether they are.
local all_late_since
local function forgive(servers, stats)
    local are_late, has_answered, is_none_left = true, false, true
    for name in pairs(servers) do
        is_none_left = is_none_left and is_lost(stats[name])
        if name ~= last_resort then
            are_late = are_late and is_late(stats[name])
            has_answered = has_answered or last_check(stats[name]):find("OK") ~= nil
        end
    end
    if has_answered then
        all_late_since = nil
    elseif are_late and all_late_since == nil then
        all_late_since = now_ms()
        core.Warning("all servers are late at once: the machine is taken to be busy, and none of them to be lost")
    end
    local is_busy = are_late and now_ms() - all_late_since < all_late_max_ms
    for name, server in pairs(servers) do
        if is_late(stats[name]) and (is_none_left or is_busy and name ~= last_resort) then
            server:check_force_up()
        end
    end
end

-- Asking a server for its figures costs the most here, so each is asked once.
local function stats_of(servers)
    local stats = {}
    for name, server in pairs(servers) do
        stats[name] = server:get_stats()
    end
    return stats
end

core.register_task(function()
    local lost_since, ended = {}, {}
    while true do
        local checks = core.backends.checks.servers
        local checked = stats_of(checks)
        if checks[last_resort] then
            forgive(checks, checked)
        end
        for where, backend in pairs(core.backends) do
            if where ~= "checks" then
                local stats = stats_of(backend.servers)
                for name, server in pairs(backend.servers) do
                    local key = where .. "/" .. name
                    local grace = checked[name] and is_late(checked[name]) and late_grace_ms or grace_ms
                    if not is_lost(stats[name]) then
                        lost_since[key], ended[key] = nil, nil
                    elseif lost_since[key] == nil then
                        lost_since[key] = now_ms()
                    elseif not ended[key] and now_ms() - lost_since[key] >= grace then
                        server:shut_sess()
                        ended[key] = true
                    end
                end
            end
        end
        core.msleep(look_every_ms)
    end
end)
