"""Writes down what this image brings, while it is built. Run by the Python that has pip, whose libraries it borrows."""

import json
import re
from importlib.metadata import distributions

from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement

# What the harness runs on, with what that needs: imported before any app is loaded, so no app can have another version.
ROOTS = ["cryptography", "dumb-init", "httptools", "starlette", "uvicorn", "uvloop", "websockets"]


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


found = {name_of(each.metadata["Name"]): each for each in distributions(path=["/opt/htagweb/site"])}
fixed: set[str] = set()
waiting = list(ROOTS)
while waiting:
    name = waiting.pop()
    if name in found and name not in fixed:
        fixed.add(name)
        needed = map(Requirement, found[name].requires or ())
        waiting += [name_of(each.name) for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]

htag = {
    generation: next(iter(distributions(path=[f"/opt/htagweb/site-gen{generation}"]))).version for generation in "12"
}
print(
    json.dumps(
        {
            "environment": default_environment(),
            "packages": {name: each.version for name, each in sorted(found.items())},
            "fixed": sorted(fixed),
            "htag": htag,
        }
    )
)
