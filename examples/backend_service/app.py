"""A backend service that answers with a synthetic picture within a deadline.

    uvicorn --app-dir examples/backend_service app:app

`GET /avatars/NAME.png` answers with a PNG. A name always has the same picture: the name decides the
seed, so there is nothing to store.
"""

import hashlib
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response

from imagemint.client import AsyncClient, DeadlineExceeded, QueueFull, Unavailable

SERVER = os.environ.get("IMAGEMINT_SERVER", "127.0.0.1:8001")
MODEL = os.environ.get("MODEL", "mnist")
API_KEY = os.environ.get("IMAGEMINT_API_KEY")
DEADLINE_S = float(os.environ.get("DEADLINE_S", "0.5"))


@asynccontextmanager
async def open_client(app: FastAPI) -> AsyncIterator[None]:
    """Keeps one client for the life of the service; its calls share a connection."""
    async with AsyncClient(SERVER, timeout_s=DEADLINE_S, api_key=API_KEY) as client:
        app.state.client = client
        yield


app = FastAPI(title="Avatars", lifespan=open_client)


@app.get("/avatars/{name}.png", response_class=Response)
async def get_avatar(name: str, request: Request) -> Response:
    """Returns the picture of a name."""
    client: AsyncClient = request.app.state.client
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    try:
        # High priority: somebody waits for this picture.
        (picture,) = await client.encoded(MODEL, seed=seed, priority="high")
    except DeadlineExceeded as error:
        raise HTTPException(504, "the picture is not ready in time") from error
    except (QueueFull, Unavailable) as error:
        retry_after_s = math.ceil(error.retry_delay_s or 1)
        headers = {"Retry-After": str(retry_after_s)}
        raise HTTPException(503, "no server has capacity", headers) from error
    return Response(picture.data, media_type="image/png", headers={"Serial-Number": picture.serial})
