"""What an image brings: written into it when it was built, as /opt/htagweb/brings.json, and read from there."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .model import ASGI, Struct
from .requirements import Needs

# All that a harness without htag imports before its app: which Starlette that wants, if any, is its own business.
SERVER = frozenset({"click", "dumb-init", "h11", "httptools", "uvicorn", "uvloop", "websockets"})


class Brings(Struct, frozen=True):
    """`environment` answers the markers of requirements, as Python gives it in there. `fixed` names the packages that
    the harness itself runs on: an app can have no others. `htag` is by generation, as text."""

    environment: Mapping[str, str]
    packages: Mapping[str, str]  # name -> version
    fixed: tuple[str, ...]
    htag: Mapping[str, str]

    @property
    def python(self) -> str:
        return self.environment.get("python_full_version", "")

    def version(self, name: str, generation: int) -> str:
        """ "" for what isn't there."""
        return self.htag.get(str(generation), "") if name == "htag" else self.packages.get(name, "")

    def constraints(self, needs: Needs, generation: int) -> list[str]:
        """What an installation must leave as it is: `name==version` each."""
        fixed = self.fixed if generation != ASGI else [name for name in self.fixed if name in SERVER]
        names = [*fixed, *(["htag"] if not any(each.name == "htag" for each in needs.requirements()) else [])]
        return [f"{name}=={version}" for name in names if (version := self.version(name, generation))]

    def unfit(self, needs: Needs) -> str:
        """What can't be mended by installing anything; "" if nothing is."""
        if not SpecifierSet(needs.python).contains(self.python, prereleases=True):
            return f"it needs Python {needs.python}; sandboxes have {self.python}"
        return ""

    def missing(self, needs: Needs, generation: int) -> tuple[str, ...]:
        """The requirements that this image doesn't fulfil by itself; () if there is nothing to install."""
        lines = zip(needs.lines, needs.requirements(), strict=True)
        return tuple(line for line, each in lines if self._applies(each) and not self._has(each, generation))

    def _applies(self, requirement: Requirement) -> bool:
        try:
            return requirement.marker is None or requirement.marker.evaluate(dict(self.environment))
        except UndefinedEnvironmentName:  # `extra == …`: of a package's own metadata, senseless in an app's
            return False
        except UndefinedComparison:  # pip says so, in its words
            return True

    def _has(self, requirement: Requirement, generation: int) -> bool:
        version = self.version(requirement.name, generation)
        # Which packages an extra means, only the package itself knows.
        return bool(version) and not requirement.extras and requirement.specifier.contains(version, prereleases=True)
