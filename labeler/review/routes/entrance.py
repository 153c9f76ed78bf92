"""Signing in and out, and the files of the pages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from labeler.errors import UsageError
from labeler.review.forms import read_form
from labeler.review.identity import COOKIE, checked_name
from labeler.review.room import Room, render

COOKIE_SECONDS = 30 * 24 * 3600


class Entrance:
    """The routes that are open to somebody who has not said who they are."""

    def __init__(self, room: Room) -> None:
        self.room = room

    async def show(self, request: Request) -> Response:
        """The form that asks for a name, and for the token where there is one."""
        name = self.room.access.reviewer(request.cookies.get(COOKIE)) or ""
        return render(self.room, "sign_in.html.j2", name=name, message="", section="")

    async def sign_in(self, request: Request) -> Response:
        """Check the token and remember the name."""
        name = ""
        try:
            form = await read_form(request)
            name = form.one("name")
            if not self.room.access.is_token(form.one("token")):
                raise UsageError("token: is not the one of this server")
            cookie = self.room.access.cookie(checked_name(name))
        except UsageError as error:
            return render(
                self.room, "sign_in.html.j2", 403, name=name, message=str(error), section=""
            )
        answer = RedirectResponse("/queue", 303)
        answer.set_cookie(
            COOKIE,
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
        answer.delete_cookie(COOKIE)
        return answer

    async def static(self, request: Request) -> Response:
        """A file of the pages, from memory."""
        file = self.room.static.get(request.path_params["name"])
        if file is None:
            return PlainTextResponse("no such file\n", 404)
        return Response(
            file.content,
            media_type=file.content_type,
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )
