# What the rules must find, and what not: semgrep holds them to it (`make semgrep`).
# ruleid: markup-made-in-python
Markup(f"<b>{name}</b>")
# ok: markup-made-in-python
Markup("<b>nothing</b>")


# ruleid: route-without-a-rule
@get("/open", name="open")
async def open_to_all(request): ...


# ok: route-without-a-rule
@get("/", name="overview", opt=VIEWER, include_in_schema=False)
async def overview(request): ...


async def away(request):
    back = request.query_params.get("next", "/")
    # ruleid: address-from-a-request-is-followed
    return Redirect(back, status_code=303)


async def back(request):
    # ok: address-from-a-request-is-followed
    return Redirect(local_path(request.query_params.get("next", "/")), status_code=303)


async def file(request):
    name = request.path_params["name"]
    # ruleid: path-from-a-request-is-opened
    return Path("/var/lib", name)


async def find_events(request, connection):
    query = request.query_params["q"]
    # ruleid: statement-from-a-request
    connection.execute(f"SELECT * FROM events WHERE type = '{query}'")
    # ok: statement-from-a-request
    connection.execute("SELECT * FROM events WHERE type = ?", (query,))


def of_type(connection, type: str):
    # ruleid: values-written-into-a-statement
    connection.execute(f"SELECT * FROM events WHERE type = '{type}'", ())
    # ruleid: values-written-into-a-statement
    connection.execute("SELECT * FROM events WHERE type = '%s'" % type)


# ruleid: shell
subprocess.run(f"ls {name}", shell=True)
# ok: shell
subprocess.run(["ls", name])
# ruleid: certificate-not-checked
httpx.Client(verify=False, timeout=5)
# ruleid: secret-compared-in-the-open
if sent.csrf_token == expected:
    ...
# ok: secret-compared-in-the-open
if hmac.compare_digest(token, expected):
    ...
# ruleid: secret-revealed-where-it-is-logged
log.info("signed in", how=f"with {settings.token.reveal()}")
# ruleid: secret-revealed-where-it-is-logged
raise ValueError(f"{settings.token.reveal()} is wrong")
# ruleid: secret-revealed-where-it-is-logged
log.info("signed in", password=expected)
# ok: secret-revealed-where-it-is-logged
log.info("signed in", user=name)
# ruleid: cookie-open-to-scripts
Cookie(key="almenara", value=secret, secure=True)
# ok: cookie-open-to-scripts
Cookie(key="almenara", value=secret, path="/", httponly=True, secure=True, samesite="lax")
# ruleid: client-without-limits
httpx.AsyncClient(verify=context)
# ruleid: client-without-limits
httpx.AsyncClient(timeout=5, follow_redirects=True)
# ruleid: client-without-limits
urllib.request.urlopen(address)
# ok: client-without-limits
httpx.AsyncClient(timeout=5, follow_redirects=False)


async def read_whole(http, client, response):
    # ruleid: whole-answer-without-a-limit
    body = await http.get("/api/jobs")
    # ruleid: whole-answer-without-a-limit
    await response.aread()
    # ok: whole-answer-without-a-limit
    body = await client.get("/api/jobs")
    async with httpx.AsyncClient(timeout=5) as own:
        # ruleid: whole-answer-without-a-limit
        body = await own.post("/api/jobs")
    made = httpx.AsyncClient(timeout=5)
    # ruleid: whole-answer-without-a-limit
    body = await made.get("/api/jobs")


# ruleid: unsafe-reading
yaml.load(text)
# ok: unsafe-reading
yaml.safe_load(text)
# ruleid: unsafe-reading
pickle.loads(body)
# ruleid: error-shown-whole
raise HTTPException(detail=str(error), status_code=500)
