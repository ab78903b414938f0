"""How much there may be in a request's JSON, counted before anything parses it: a few megabytes of empty lists keep
Python busy for many seconds, and the server's loop with it.

Text is cheap, whatever its length; so what is counted stands outside of strings.
"""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FEW_BYTES = 20_000  # in which nothing can be many
OF_A_FORM, MAX_STRINGS = 20_000, 200_000


def too_many_parts(body: bytes | bytearray, lists: int, values: int) -> bool:
    """Has the JSON more lists and objects, or more values than so many, or more strings than MAX_STRINGS?"""
    if len(body) <= FEW_BYTES:
        return False
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # no quotes but those around strings
    if bare.count(b'"') > 2 * MAX_STRINGS:
        return True
    outside = b"".join(bare.split(b'"')[::2])
    return outside.count(b"[") + outside.count(b"{") > lists or outside.count(b",") > values


CALLS = "/gradio_api/"


class Forms:
    """Hands on what forms and scripts send to the page once it is there as a whole, and refuses what has too many
    parts. OriginGuard has limited the length. A call that gradio fails over, as it has no such name or number, which
    may be an earlier version's, or not these parameters, is answered in a sentence; what a call does runs later, on
    gradio's queue."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        message = await receive()
        body = bytearray(message.get("body", b""))
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        if too_many_parts(body, OF_A_FORM, OF_A_FORM):
            words = "That has more parts than any form of this page sends."
            await PlainTextResponse(words, 413)(scope, receive, send)
            return
        whole: list[Message] = [{**message, "body": bytes(body)}]  # or that the client has gone

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        if not scope["path"].startswith(CALLS):
            await self.app(scope, receive_whole, send)
            return
        failed = False

        async def send_or_say(message: Message) -> None:
            nonlocal failed
            if message["type"] == "http.response.start" and message["status"] == 500:
                failed = True
                words = "There is no such call here, or it takes other parameters: see /gradio_api/info."
                await PlainTextResponse(words, 400)(scope, receive, send)
            elif not failed:
                await send(message)

        try:
            await self.app(scope, receive_whole, send_or_say)
        except Exception:
            if not failed:
                raise
