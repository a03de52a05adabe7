"""From the process's start to a sandbox that waits for its app.

The order matters: the run directory is sealed as soon as both sockets are in it, and until then nothing but the harness
and the standard library may run. Started as `python -I -S`, so that no .pth file and no environment variable has a say.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import signal
import site
import sys
import traceback
from typing import Any

from .control import Control
from .listening import Guard, listen
from .loading import LoadFailed, one_line
from .output import Output
from .parent import OUT_OF_MEMORY, end_with_parent, keep_to, let_go
from .sandbox import Sandbox
from .serving import import_server, serve
from .standin import finish_runners, install_runners


def main() -> None:
    options = _options()
    if options.lifeline:
        end_with_parent()
    keep_to(options.memory_bytes)
    secret = os.environ.pop("HTAGWEB_SECRET", "") if options.tcp else ""
    output = Output()
    boot_log = output.capture()
    try:
        app_socket = listen(options.run, "app", 0o666, tcp=options.tcp)
        control_socket = listen(options.run, "control", 0o600, tcp=options.tcp)
    except OSError:
        os.write(boot_log, traceback.format_exc().encode())
        raise SystemExit(1) from None
    os.close(boot_log)
    sandbox = Sandbox(
        generation=options.generation, app_dir=options.app_dir, secrets_dir=options.secrets_dir, sites=options.site
    )
    sandbox.control = Control(control_socket, output, sandbox, secret)
    try:
        sandbox.htag_version = _import_image(options.site, options.generation)
    except Exception as error:
        sandbox.broken = LoadFailed(f"what apps need could not be imported: {one_line(error)}", traceback.format_exc())
    if options.fast:
        with contextlib.suppress(ImportError):
            sandbox.new_loop = importlib.import_module("uvloop").new_event_loop
    sandbox.control.start()
    loop = sandbox.load()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # uvicorn ends its server at SIGTERM and then raises it again, for whom it was meant before.
        signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        loop.run_until_complete(serve(Guard(sandbox.front, secret) if secret else sandbox.front, app_socket))
    except BaseException as error:
        full = isinstance(error, MemoryError) and let_go()
        traceback.print_exc()
        sandbox.control.leave(OUT_OF_MEMORY if full else 1)
    sandbox.control.leave(0)


def _options() -> Any:
    parser = argparse.ArgumentParser("harness", description="Runs one app for one user.")
    parser.add_argument("--generation", type=int, choices=(0, 1, 2), required=True, help="0: no htag")
    parser.add_argument("--run", default="/run/app", help="where the sockets are made")
    parser.add_argument("--app-dir", default="/app", help="where the app's files go")
    parser.add_argument("--secrets-dir", default="/run/secrets", help="where the app's secrets go")
    parser.add_argument("--site", action="append", help="a folder of packages; may be given several times")
    # Of a sandbox that is a mere process, without a container to do this for it:
    parser.add_argument("--tcp", action="store_true", help="listen on loopback, for those who know $HTAGWEB_SECRET")
    parser.add_argument("--lifeline", action="store_true", help="end when stdin does")
    parser.add_argument("--fast", action="store_true", help="use uvloop, where it is: 2 MB for a third of the CPU")
    parser.add_argument("--memory-bytes", type=int, default=0, help="allocate no more than this")
    options = parser.parse_args()
    if options.site is None:
        options.site = ["/opt/htagweb/site"]
        if options.generation:
            # An app may pin another htag than the sandbox image brings; then it is in its own image.
            own = "/opt/htagweb/site-htag"
            options.site.append(own if os.path.isdir(own) else f"/opt/htagweb/site-gen{options.generation}")
    return options


def _import_image(sites: list[str], generation: int) -> str:
    """What the image brings, ready for any app. Returns htag's version, "" without htag."""
    sys.path += sites
    import_server()
    if not generation:
        return ""  # which framework an app brings isn't known
    install_runners()
    if importlib.util.find_spec("htag") is None:
        site.main()  # it may be there by a .pth file, as an editable install is
    htag = importlib.import_module("htag")
    if (generation == 2) != hasattr(htag, "WebApp"):
        raise ImportError(f"htag {htag.__version__} is not of generation {generation}")
    importlib.import_module("htag.render" if generation == 1 else "htag.web")
    finish_runners(htag, os.path.dirname(str(htag.__file__)))
    return str(htag.__version__)
