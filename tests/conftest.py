"""Every test runs against an in-process Hub, with an empty cache, and cannot reach any other machine."""

from __future__ import annotations

import faulthandler
import gc
import itertools
import os
import shutil
import socket
import sys
import tempfile

import pytest
from xdist.scheduler import LoadScopeScheduling

import tiny_hub

gc.disable()  # until all tests are loaded, and with them most libraries
# huggingface_hub reads its settings when it is imported, so they must be set before
assert "huggingface_hub" not in sys.modules, "huggingface_hub was imported before HF_ENDPOINT was set"
_SERVER = tiny_hub.serve()
_HOME = tempfile.mkdtemp(prefix="mll-hf-tests-")
_NUMBERS = itertools.count()
os.environ.update(
    HF_ENDPOINT=tiny_hub.endpoint(_SERVER),
    HF_HOME=_HOME,
    HF_TOKEN="hf_test_token",
    HF_HUB_DISABLE_XET="1",  # the fixture `xet` enables it
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_CACHE=os.path.join(_HOME, "datasets"),
    TOKENIZERS_PARALLELISM="false",
    NO_COLOR="1",
)
for _key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_CO_STAGING", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
    os.environ.pop(_key, None)
for _key in [key for key in os.environ if key.lower() in ("http_proxy", "https_proxy", "all_proxy")]:
    os.environ.pop(_key)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # read by torch; workers share the cores

# Groups of files that run on one worker, because they share large objects (Gradio and the browser; models labeled by
# the command line; datasets). Slowest first, since the run ends with the last one. Every other file is its own group,
# so its fixtures are created once.
GROUPS = (
    "tests/space_apps/",
    "tests/labeling/test_many.py",
    "tests/models/test_conformance.py",
    "tests/cli/",
    "tests/test_export.py",
    "tests/test_end_to_end.py",
    "tests/graph_tools/",
    "tests/test_live_check.py",
    "tests/hub/test_hub_publish.py",
    "tests/test_serving.py",
    "tests/test_client.py",
    "tests/benchmark/test_run.py",
    "tests/models/test_backends.py",
    "tests/hub/test_hub_sources.py",
    "tests/test_readme.py",
)
_STDERR, _MODULES = pytest.StashKey[int](), pytest.StashKey[int]()
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _ByGroups(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        return next((group for group in GROUPS if file.startswith(group)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Assign groups to workers in the order of the tests, see `pytest_collection_modifyitems`."""
    config.option.loadscopereorder = False
    return _ByGroups(config, log)


def pytest_collection_modifyitems(items):
    def place(item):
        return next((n for n, group in enumerate(GROUPS) if item.nodeid.startswith(group)), len(GROUPS))

    items.sort(key=place)


def pytest_collection_finish():
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Exempt libraries from garbage collection once they are loaded: a pass over those of this suite takes .3 s."""
    if len(sys.modules) > item.config.stash.get(_MODULES, 0) + 200:
        item.config.stash[_MODULES] = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_configure(config):
    config.stash[_STDERR] = os.dup(2)  # not captured yet


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    """What follows a failure may hang as well: at a failure pytest stops its clock, for those who debug."""
    limit = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(limit, file=item.config.stash[_STDERR], exit=True)


def pytest_unconfigure():
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _fresh_hub(monkeypatch):
    """An empty Hub and an empty cache for each test."""
    from huggingface_hub import constants, hf_api

    tiny_hub.HUB.reset()
    hf_api.api._whoami_cache.clear()
    # not by tmp_path_factory, which reads the names of all its folders each time
    folder = os.path.join(_HOME, f"test-{next(_NUMBERS)}")
    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
        os.makedirs(os.path.join(folder, name))
        monkeypatch.setattr(constants, name, os.path.join(folder, name))  # the default is read at call time
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """No test can reach another machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise RuntimeError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def hub():
    """The state of the Hub: repositories, and the requests so far."""
    return tiny_hub.HUB


@pytest.fixture
def xet(monkeypatch):
    """Large files are in Xet storage; `hub.fail_xet` plans faults."""
    import tiny_xet

    tiny_xet.install(monkeypatch)


@pytest.fixture
def api():
    """A client of the Hub, logged in as alice, who owns ``alice/...``."""
    from huggingface_hub import HfApi

    return HfApi(library_name="mll_hf")


@pytest.fixture
def reader():
    """A client of the Hub, logged in as bob, who may read and open pull requests on alice's repositories."""
    from huggingface_hub import HfApi

    return HfApi(token="hf_reader_token")


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory):
    """Folder of a tiny open_clip model; do not write to it."""
    from tiny_models import make_open_clip

    return make_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-clip")


@pytest.fixture(scope="session")
def tiny_transformers_clip(tmp_path_factory):
    """Folder of a tiny CLIP of transformers; do not write to it."""
    from tiny_models import make_transformers_clip

    return make_transformers_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory):
    """Folder of a tiny SigLIP of transformers; do not write to it."""
    from tiny_models import make_siglip

    return make_siglip(tmp_path_factory.mktemp("models") / "tiny-siglip")
