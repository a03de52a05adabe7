"""The one place that picks an engine."""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engines.docker import DockerEngine
    from .engines.docker_images import DockerImages
    from .engines.process import ProcessEngine
    from .settings import Settings

# -I and -S as in a container: whatever the user's site does happens once the harness serves, not before.
BOOT = (
    "import sys; home = sys.argv.pop(1); sys.path.append(home); "
    "from htagweb_harness.boot import main; sys.path.remove(home); main()"
)


def engine(settings: Settings) -> DockerEngine:
    """The engine of this installation; nothing is asked of it yet. The caller closes it."""
    from .engines.docker import DockerEngine  # an embedded server has neither the engine nor its library

    return DockerEngine(instance=settings.instance, run_volume=settings.run_volume, data_volume=settings.data_volume)


def process_engine(run: Path) -> ProcessEngine:
    """Processes of this user, with what this interpreter can import. The caller closes it."""
    from .engines.process import ProcessEngine

    spec = find_spec("htagweb_harness")
    assert spec is not None
    assert spec.origin is not None
    home = str(Path(spec.origin).parent.parent)
    return ProcessEngine(run=run, program=(sys.executable, "-I", "-S", "-c", BOOT, home), sites=sites())


def sites() -> list[str]:
    """What `sys.path` has beside the standard library."""
    paths = sysconfig.get_paths()
    own = {os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib")}
    own |= {os.path.join(each, "lib-dynload") for each in own}
    entries = [os.path.abspath(entry) for entry in sys.path]  # "" is where we are
    return [each for each in dict.fromkeys(entries) if os.path.isdir(each) and os.path.realpath(each) not in own]


def images(settings: Settings) -> DockerImages:
    """Who makes images for that engine. The caller closes it."""
    from .engines.docker_images import DockerImages

    return DockerImages(instance=settings.instance)
