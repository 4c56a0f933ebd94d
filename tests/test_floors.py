"""Imports only go down, and each key hangs in one room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import trioprov

HOUSE = Path(trioprov.__file__).parent

# From the ground up. Rooms on one floor do not talk; a folder is one room.
FLOORS = [
    {"_version", "_errors", "_events", "_outcomes", "_conversation"},
    {"wire"},
    {"providers"},
    {"_transport", "_journal", "_broadcast", "_flow", "_retry"},
    {"_cleanup"},
    {"_debt", "_sweep"},
    {"_client", "_transcript"},
    {"_reply"},
    {"_line"},
    {"_turn"},
    {"_opening"},
    {"_owner"},
    {"_exits"},
    {"_session"},
    {"_lane"},
    {"_fanout", "_race"},
    {"__init__"},
    {"testing", "anyio"},
    {"cli", "asgi"},
    {"__main__"},
]

KEYS = {
    "httpx": {"_transport"},
    "httpcore": set[str](),
    "httptools": {"_transport"},
    "h11": {"testing"},
    "anyio": {"anyio", "asgi"},
    "starlette": {"asgi"},
    "asyncio": {"anyio"},
    "sqlite3": {"_journal"},
    "fcntl": {"_journal"},
    "rich": {"cli"},
    "msgspec": {"wire", "providers"},
    "uuid": {"_opening", "_turn", "testing"},
    "random": {"_retry", "testing"},
    "socket": {"_transport", "testing"},
    "ssl": {"_client", "_transport", "anyio"},
    "threading": {"_journal", "anyio", "cli", "testing"},
    "zlib": {"_transport"},
}

# What a pure room has no use for: it is given ids and times, and asks nobody.
IMPURE = {"trio", "time", "random", "uuid", "os", "secrets", "socket", "threading", "asyncio", "logging"}


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports when it runs, each with whether it is one of ours."""
    package = [trioprov.__name__, *path.relative_to(HOUSE).with_suffix("").parts[:-1]]
    tree = ast.parse(path.read_text("utf-8"))
    # What is imported for annotations alone says what a value is, not who calls whom.
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.name.split(".")[0] == trioprov.__name__
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            ours = name.split(".")[0] == trioprov.__name__
            if ours and name == trioprov.__name__:
                for alias in node.names:
                    inside = (HOUSE / alias.name).is_dir() or (HOUSE / f"{alias.name}.py").exists()
                    yield f"{name}.{alias.name}" if inside else f"{name}.__init__", True
            else:
                yield name, ours


FILES = sorted(HOUSE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_only_go_down(path: Path) -> None:
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    here = room(path)
    for module, ours in imports(path):
        there = module.split(".")[1] if ours and "." in module else "__init__"
        if ours and there != here:
            assert height[there] < height[here], f"{here} imports {there}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_each_key_hangs_in_its_rooms(path: Path) -> None:
    used = {module.split(".")[0] for module, ours in imports(path) if not ours}
    for key in used & KEYS.keys():
        assert room(path) in KEYS[key], f"{key} is not for {room(path)}"
    if room(path) in {"wire", "providers", "_errors", "_events", "_outcomes", "_conversation"}:
        assert not used & IMPURE


@pytest.mark.parametrize("path", sorted((HOUSE / "providers").glob("*.py")) + sorted((HOUSE / "wire").glob("*.py")))
def test_a_pure_room_never_awaits(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Await, ast.AsyncFunctionDef))]


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room(path) for path in FILES}
    assert rooms == set[str]().union(*FLOORS)


def test_no_module_outgrows_its_room() -> None:
    for path in FILES:
        assert len(path.read_text("utf-8").splitlines()) <= 350, f"{path.name} wants to become a folder"
