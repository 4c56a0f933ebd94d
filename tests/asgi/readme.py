"""The application in README, as it stands there, on a real server; for whoever says ``H2o()``, H2O is elsewhere."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import server

import trioprov

README = Path(__file__).parent.parent.parent / "README.md"

setattr(trioprov, "H2o", partial(trioprov.H2o, base_url=os.environ["H2O"]))  # noqa: B010 - it is a class, to the checker
[block] = re.findall(
    r"^```python\n((?:(?!```).)*?FastAPI\(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
names: dict[str, Any] = {}
exec(compile(block, "README.md", "exec"), names)
server.main(names["app"])
