"""Signing in and out, and the files of the pages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from labeler.errors import UsageError
from labeler.review.access import COOKIE_SECONDS, checked_name
from labeler.review.context import Context, render
from labeler.review.deciding import read_form
from labeler.text import plural

SIGN_IN_AGAIN = (
    "Your sign-in is over: its time has passed, or the server was started again. Nothing that you"
    " sent since was recorded."
)


class Auth:
    """The routes that are open to somebody who has not said who they are."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def show(self, request: Request) -> Response:
        """The form that asks for a name, and for the token where there is one."""
        access = self.context.access
        cookie = request.cookies.get(access.cookie_name)
        is_old = cookie is not None and access.reviewer(cookie) is None
        return self._form(access.claimed_name(cookie), SIGN_IN_AGAIN if is_old else "")

    async def sign_in(self, request: Request) -> Response:
        """Check the token and remember the name."""
        access, name = self.context.access, ""
        address = request.client.host if request.client else ""
        try:
            form = await read_form(request)
            name = form.one("name")
            wait = self.context.guesses.wait(address)
            if access.token is not None and wait:
                return self._too_often(name, wait)
            if not access.is_token(form.one("token")):
                self.context.guesses.wrong(address)
                raise UsageError("token: is not the one of this server")
            self.context.guesses.right(address)
            cookie = access.cookie(checked_name(name))
        except UsageError as error:
            return self._form(name, str(error), 403)
        answer = RedirectResponse("/queue", 303)
        answer.set_cookie(
            access.cookie_name,
            cookie,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Forget the name."""
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(self.context.access.cookie_name)
        return answer

    def _form(self, name: str, message: str, status: int = 200) -> Response:
        return render(
            self.context, "sign_in.html.j2", status, name=name, message=message, section=""
        )

    def _too_often(self, name: str, wait: int) -> Response:
        words = f"token: too many wrong ones; the next is looked at in {plural(wait, 'second')}"
        answer = self._form(name, words, 429)
        answer.headers["Retry-After"] = str(wait)
        return answer

    async def static(self, request: Request) -> Response:
        """A file of the pages, from memory."""
        file = self.context.static.get(request.path_params["name"])
        if file is None:
            return PlainTextResponse("no such file\n", 404)
        return Response(
            file.content,
            media_type=file.content_type,
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )
