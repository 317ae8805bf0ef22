-- Asks Sidegate whether a request may pass, and who it is from: `http-request lua.sidegate http://127.0.0.1:8080`.
-- What it says stands in variables: txn.sidegate_status (200, 401, 403; 503 where it said nothing), and those below.

-- Who the client is, and what it is after. Nothing else of its request goes along, so that it cannot describe another one.
local PASSED_ON = {
    "accept", "authorization", "cookie", "origin", "purpose", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-purpose",
    "sec-websocket-key", "traceparent", "user-agent", "x-moz", "x-purpose", "x-request-id",
}

local SAID = {
    ["x-auth-request-user"] = "txn.sidegate_user",
    ["x-auth-request-email"] = "txn.sidegate_email",
    ["x-auth-request-preferred-username"] = "txn.sidegate_username",
    ["x-auth-request-groups"] = "txn.sidegate_groups",
    ["x-auth-request-user-id"] = "txn.sidegate_id",
    ["x-sidegate-assertion"] = "txn.sidegate_assertion",
    ["location"] = "txn.sidegate_login",
    ["www-authenticate"] = "txn.sidegate_challenge",
}

core.register_action("sidegate", { "http-req" }, function(txn, address)
    txn:set_var("txn.sidegate_status", 503)
    local received = txn.http:req_get_headers()
    local hosts = received["host"]
    if hosts == nil or hosts[0] == nil or hosts[1] ~= nil then
        txn:set_var("txn.sidegate_status", 403)
        return
    end
    local asked = {
        ["x-original-url"] = { "https://" .. hosts[0] .. txn.f:pathq() },
        ["x-original-method"] = { txn.f:method() },
        ["x-forwarded-for"] = { txn.f:src() },
        ["x-forwarded-proto"] = { "https" },
    }
    for _, name in ipairs(PASSED_ON) do
        local values = received[name]
        if values ~= nil then
            asked[name] = {}
            for number = 0, #values do
                table.insert(asked[name], values[number])
            end
        end
    end
    local answer = core.httpclient():get{ url = address .. "/api/v1/auth/verify", headers = asked, timeout = 10000 }
    if answer == nil or (answer.status ~= 200 and answer.status ~= 401 and answer.status ~= 403) then
        return
    end
    for name, variable in pairs(SAID) do
        local values = answer.headers[name]
        if values ~= nil and values[0] ~= nil and values[0] ~= "" then
            txn:set_var(variable, values[0])
        end
    end
    txn:set_var("txn.sidegate_status", answer.status)
end, 1)
