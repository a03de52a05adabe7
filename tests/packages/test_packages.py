"""Apps that name packages get them: built in the background, shared, and side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from htagweb.checking import check
from htagweb_orchestrator.model import Ending
from htagweb_orchestrator.settings import AppSettings
from tests.attacks.stage import eventually
from tests.engines.conftest import IMAGE, SOCKET
from tests.packages.conftest import Stage, app
from tests.wheels import wheel

pytestmark = pytest.mark.docker


async def test_apps_with_contradicting_versions_run_side_by_side_on_either_htag(stage: Stage) -> None:
    wheel(stage.wheels, "tiny", "1.0", requires=["tinier>=1"])
    wheel(stage.wheels, "tiny", "2.0")
    wheel(stage.wheels, "tinier", "1.5")
    says = "f'tiny {tiny.VERSION}, htag {htag.__version__}'"
    stage.publish("old.py", app("tiny<2", says=says, imports="import htag, tiny, tinier"))
    stage.publish("new.py", app("tiny==2.0", "htag>=2", says=says, imports="import htag, tiny", generation=2))
    stage.publish("plain.py", app("htag<2", "pillow", says="'no build'"))
    await stage.serve()
    visitor = stage.visitor()
    assert "no build" in await stage.shows("plain", visitor)
    assert "tiny 1.0, htag 1.0.0" in await stage.shows("old", visitor)
    assert "tiny 2.0, htag 2." in await stage.shows("new", visitor)
    assert len(stage.images()) == 2
    assert not stage.builders()


async def test_an_exact_htag_is_the_apps_own_beside_that_of_the_others(stage: Stage) -> None:
    htag = stage.inside(IMAGE, "/opt/htagweb/site-gen2/htag")
    files = {name: content.decode() for name, content in htag.items() if name.endswith(".py")}
    wheel(stage.wheels, "htag", "2.0.9999", requires=["starlette>=0.40.0"], files=files)
    says = "f'htag {htag.__version__} of {htag.__file__}'"
    stage.publish("exact.py", app("htag==2.0.9999", says=says, imports="import htag", generation=2))
    stage.publish("usual.py", app("htag>=2", says=says, imports="import htag", generation=2))
    await stage.serve()
    visitor = stage.visitor()
    assert "htag 2.0.9999 of /opt/htagweb/site-htag/htag/__init__.py" in await stage.shows("exact", visitor)
    assert "of /opt/htagweb/site-gen2/htag/__init__.py" in await stage.shows("usual", visitor)


async def test_what_cant_be_installed_is_said_in_words_and_the_rest_goes_on(stage: Stage) -> None:
    wheel(stage.wheels, "tiny", "1.0")
    (stage.folder / "apps" / "other.py").write_text(app(says="'still here'"))
    stage.publish("nosuch.py", app("no-such-package>1", says="1"))
    stage.publish("clash.py", app("starlette>=1", says="1"))
    stage.publish("tampered/app.py", "from htag import Tag\n\nclass App(Tag.div):\n    pass\n")
    stage.publish("tampered/requirements.txt", f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    stage.publish("tomorrow.py", app("tiny", says="1", python=">=4"))
    stage.publish("address.py", app("tiny @ https://example.org/tiny.whl", says="1"))
    await stage.serve()
    said = {name: (await stage.settled(name, "failed"))["problem"] for name in ("nosuch", "clash", "tampered")}
    assert said["nosuch"] == "There is no wheel of no-such-package>1 that fits; nothing is built from source."
    assert said["clash"].startswith("These requirements contradict each other: the app wants starlette>=1; sandboxes")
    assert said["tampered"] == "The requirements give another hash for tiny==1.0 than it has."
    assert stage.row("tomorrow")["problem"].startswith("it needs Python >=4; sandboxes have 3.")
    assert stage.row("address")["problem"].startswith("address.py: tiny is to come from an address")
    assert "still here" in await stage.shows("other")
    assert "No matching distribution" in stage.operators.build_log("nosuch")
    visitor = stage.visitor()
    refused = await visitor.open("nosuch")
    assert (refused.status, refused.header(b"x-htagweb")) == (503, b"broken-app")
    assert not stage.images()
    assert not stage.builders()


async def test_a_failed_build_keeps_the_last_good_version_and_is_tried_again_when_a_wheel_comes(stage: Stage) -> None:
    wheel(stage.wheels, "tiny", "1.0")
    stage.publish("demo.py", app("tiny", says="'tiny ' + tiny.VERSION", imports="import tiny"))
    await stage.serve()
    waiting = stage.visitor()
    preparing = await waiting.open("demo")
    assert (preparing.status, preparing.header(b"retry-after")) == (503, b"5")
    assert b"is being prepared" in preparing.body
    program = await waiting.get("/demo/")
    assert (program.status, json.loads(program.body)["reason"]) == (503, "preparing")
    assert program.header(b"retry-after") == b"5"
    assert "tiny 1.0" in await stage.shows("demo", waiting)
    stage.publish("demo.py", app("tiny==2.0", says="'tiny ' + tiny.VERSION", imports="import tiny"))
    await stage.settled("demo", "failed")
    assert "tiny 1.0" in (await stage.visitor().open("demo")).body.decode()
    wheel(stage.wheels, "tiny", "2.0")
    await eventually(lambda: stage.row("demo")["state"] != "failed")
    assert "tiny 2.0" in await stage.shows("demo")


async def test_images_outlive_the_orchestrator_and_go_when_nobody_uses_them(stage: Stage) -> None:
    wheel(stage.wheels, "tiny", "1.0")
    source = app("tiny", says="'tiny ' + tiny.VERSION", imports="import tiny")
    stage.publish("one.py", source)
    stage.publish("two.py", source + "\n# another file with the same set\n")
    await stage.serve()
    await stage.settled("one")
    await stage.settled("two")
    (image,) = stage.images()
    await stage.serve_again()
    visitor = stage.visitor()
    assert "tiny 1.0" in await stage.shows("one", visitor)
    assert [each["Id"] for each in stage.images()] == [image["Id"]]
    for name in ("one", "two"):
        (stage.folder / "apps" / f"{name}.py").unlink()
    await eventually(lambda: not stage.operators.apps()[1:])
    assert await stage.operators.prune(really=False) == []  # the sandbox runs on it
    await stage.control.end(stage.control.sandboxes(), Ending.OPERATOR)
    (row,) = await stage.operators.prune(really=False)
    assert (row["image"], row["removed"]) == (image["RepoTags"][0], False)
    assert row["size_bytes"] > 0
    assert stage.images()
    assert [each["removed"] for each in await stage.operators.prune(really=True)] == [True]
    assert not stage.images()


async def test_what_is_wrong_with_an_app_is_said_before_anybody_opens_it(stage: Stage) -> None:
    stage.publish(
        "other.py", "from htag import Tag\n\nclass App(Tag.div):\n    def init(self):\n        self.add_class('x')\n"
    )
    stage.publish("loud.py", "print('x' * 10_000_000)\n" + app(says="'hello'"))
    stage.publish("sound.py", app(says="'hello'"))
    stage.publish("absent.py", "import tiny\n" + app(says="'hello'"))
    await stage.serve(warm_max=1, warm_min=1)
    said = {name: (await stage.settled(name, "broken"))["problem"] for name in ("other", "loud", "absent")}
    assert said["other"].startswith("when it was tried out on htag 1, its first page failed: AttributeError: ")
    assert said["other"].endswith('dependencies = ["htag>=2"]')
    assert said["loud"].startswith("when it was tried out, it wrote ")
    assert "it could not be imported: ModuleNotFoundError: No module named 'tiny'" in said["absent"]
    assert said["absent"].endswith('; if that is a package, the app has to name it: dependencies = ["tiny"]')
    assert not stage.row("sound")["problem"]
    assert "hello" in await stage.shows("sound")


# -- images of the operator's own ------------------------------------------------------------------------------------


async def test_an_image_of_the_operators_own_can_change_nothing_of_the_wall(stage: Stage) -> None:
    hostile = stage.image_of(
        'ENTRYPOINT ["sh", "-c", "sleep 1000"]',
        "CMD echo pwned",
        "USER 0:0",
        "WORKDIR /etc",
        "ENV PYTHONPATH=/evil PYTHONSTARTUP=/evil HOME=/root",
        "HEALTHCHECK --interval=1s CMD touch /tmp/healthcheck",
        "ONBUILD RUN false",
        "STOPSIGNAL SIGUSR1",
        "EXPOSE 22",
        "LABEL htagweb.instance=other htagweb.sandbox=other htagweb.builder=other com.docker.compose.project=other",
    )
    with_volume = stage.image_of("VOLUME /var/lib/data")
    strange = stage.image_of('ENTRYPOINT ["true"]', base=stage.foreign_image())
    for name in ("mine", "volume", "strange", "missing"):
        stage.publish(f"{name}.py", app("never-installed", says="'hello'"))
    chosen = {"mine": hostile, "volume": with_volume, "strange": strange, "missing": "htagweb-no-such-image:1"}
    await stage.serve(
        images=tuple(chosen.values()), apps={name: AppSettings(image=image) for name, image in chosen.items()}
    )
    visitor = stage.visitor()
    assert "hello" in await stage.shows("mine", visitor)
    made = stage.inspect(stage.sandbox(visitor, "mine").id)
    config = made["Config"]
    uid = stage.sandbox(visitor, "mine").lease.uid
    assert (config["Entrypoint"], config["User"]) == (["/opt/htagweb/boot"], f"{uid}:{uid}")
    assert (config["WorkingDir"], config["Healthcheck"]["Test"]) == ("/", ["NONE"])
    assert config["Labels"]["htagweb.instance"] == stage.instance
    assert not config["Labels"]["com.docker.compose.project"]
    assert not config["Labels"]["htagweb.builder"]
    assert made["HostConfig"]["NetworkMode"] == "none"
    said = {name: (await stage.settled(name, "broken"))["problem"] for name in ("volume", "strange", "missing")}
    assert said["volume"].endswith("declares a volume (/var/lib/data), which no sandbox may have")
    assert "was not made from" in said["strange"]
    assert said["missing"] == "the engine has no image htagweb-no-such-image:1: build it, or pull it"


def test_apps_check_names_an_image_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "htagweb.toml").write_text(f'images = ["{IMAGE}", "htagweb-no-such-image:1"]\n')
    (problem,) = check(tmp_path / "apps", {"DOCKER_SOCK": SOCKET}).problems
    assert problem == "images: the engine has no image htagweb-no-such-image:1: build it, or pull it"


@pytest.mark.skipif("REAL_WHEELS" not in os.environ, reason="builds for half a minute: REAL_WHEELS=1 has it tried")
async def test_numpy_and_pandas_work_as_an_apps_own(stage: Stage) -> None:
    """Under the sandboxes' real options."""
    stage.download("numpy", "pandas")
    says = "f'sum {pandas.DataFrame({\"n\": numpy.arange(11)}).n.sum()}, {numpy.linalg.inv(numpy.eye(3)).trace():.0f}'"
    stage.publish("table.py", app("numpy", "pandas", says=says, imports="import numpy, pandas"))
    await stage.serve()
    assert "sum 55, 3" in await stage.shows("table")
