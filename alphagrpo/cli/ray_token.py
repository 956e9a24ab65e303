"""Ray's token: where it is kept, which cluster asks for it, and what to say where it is refused.

Nothing here imports ray, which reads its environment once: whoever joins a cluster learns first, by
one call to its GCS, whether that cluster asks for a token.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal

from alphagrpo.errors import EnvironmentProblem

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's own variables: mode, token, and file of the token; the first of the last two decides."""
ANSWER_SECONDS = 10.0
"""For a busy cluster to answer one small call; one that does not listen refuses at once."""
CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call of the GCS whose request may be empty, answered by every version since Ray 2.0."""

Access = Literal["granted", "refused", "silent"]


def token_mode() -> bool:
    """Whether Ray's processes that start here ask each other for the token."""
    return os.environ.get(MODE, "").lower() == "token"


def token_path() -> Path:
    """The file that Ray reads the token from where ``RAY_AUTH_TOKEN`` is not set."""
    named = os.environ.get(TOKEN_PATH)
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def find_token() -> str | None:
    """The token that Ray would use here; None where there is none.

    Raises EnvironmentProblem where the variable holds nothing but white space: Ray would take it
    for a token, and a cluster that was started with it for the right one.
    """
    if token := os.environ.get(TOKEN):
        if not token.strip():
            raise EnvironmentProblem(
                f"Ray's token must be more than white space, {TOKEN} is {token!r}; set it to what "
                "`ray get-auth-token` prints on the head node, or unset it"
            )
        return token.strip()
    try:
        return token_path().read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def token_place() -> str:
    """Where people find the token that is used here."""
    return TOKEN if os.environ.get(TOKEN) else str(token_path())


def ensure_token() -> None:
    """There is a token, and nobody else can read its file: whoever has it may run code here.

    Ray writes a file that everybody may read. Raises EnvironmentProblem where it cannot be written
    and for a token of white space.
    """
    if os.environ.get(TOKEN) and find_token():
        return
    path = token_path()
    try:
        if find_token() is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # an empty file, perhaps one that others may read
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise EnvironmentProblem(
            f"Ray's token must be kept in a file that only its user reads, {path} cannot be that "
            f"({error}); name another file in {TOKEN_PATH}, or set {TOKEN}"
        ) from error


def use_token_of(address: str) -> None:
    """Set ``RAY_AUTH_MODE`` as the cluster at ``address`` has it; before ray is imported.

    A process of the other mode is not told so by Ray: one without a token waits 20 s for a cluster
    that asks for one, and one that asks for it itself refuses the answers of an open cluster.

    Raises EnvironmentProblem where nothing answers, where the cluster asks for a token that is not
    here or is another one, and where the mode that is set is not the cluster's.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return  # certificates guard it; whether it asks for a token too is known to its user only
    access, mode = ask(address, None), os.environ.get(MODE, "").lower()
    if access == "silent":
        raise EnvironmentProblem(
            f"the cluster to join must answer, nothing does at {address}; start it, name another "
            "in RAY_ADDRESS, or set RAY_ADDRESS=local for a private one"
        )
    if access == "granted":
        if mode == "token":
            raise EnvironmentProblem(
                f"the cluster at {address} asks for no token, {MODE} is 'token' here; unset it, or "
                f"start the cluster with {MODE}=token"
            )
        return
    token = find_token()
    if token is None:
        raise EnvironmentProblem(
            f"the cluster at {address} asks for a token, none is here; copy the head node's "
            f"~/.ray/auth_token (`ray get-auth-token` prints it there) to {token_path()}, or set "
            f"{TOKEN}"
        )
    if ask(address, token) == "refused":
        raise EnvironmentProblem(
            f"the cluster at {address} asks for a token and refuses the one in {token_place()}; "
            "take the one that `ray get-auth-token` prints on its head node"
        )
    if mode not in ("", "token"):
        raise EnvironmentProblem(
            f"the cluster at {address} asks for a token, {MODE} is {mode!r} here; unset it"
        )
    os.environ[MODE] = "token"


def ask(address: str, token: str | None) -> Access:
    """What the GCS at ``address`` says to a caller with this token."""
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(CHECK_ALIVE)(b"", timeout=ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return "refused" if error.code() is grpc.StatusCode.UNAUTHENTICATED else "silent"
    return "granted"
