"""Publishing a Space: what it installs this package from is never a name on a registry by default."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import package_source
import push_space

SPACE = "alice/space"
URL = "https://example.com/mll_hf-1-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the checkout."""
    file = tmp_path / "dist" / "mll_hf-1-py3-none-any.whl"
    file.parent.mkdir()
    file.write_bytes(b"a wheel")
    monkeypatch.delenv("MLL_HF_PACKAGE", raising=False)
    monkeypatch.setattr(package_source, "_CHECKOUT", tmp_path)
    return file


@pytest.mark.parametrize("name", ["mll_autolabel", "mll_select"])
def test_a_space_brings_the_wheel_of_the_checkout(hub, api, wheel, name, capsys):
    assert push_space.main([name, SPACE]) == 0
    files = hub.files("space", SPACE)
    assert capsys.readouterr().out == f"{api.endpoint}/spaces/{SPACE}\n"
    assert files["app.py"] == (push_space.SPACES / name / "app.py").read_bytes()
    assert files[wheel.name] == b"a wheel"
    first = files["requirements.txt"].decode().splitlines()[0]
    extras = {"mll_autolabel": "models,space", "mll_select": "models,offline,space,export"}[name]
    assert first == f"mll-hf[{extras}] @ {api.endpoint}/spaces/{SPACE}/resolve/main/{wheel.name}"
    assert not any("__pycache__" in path for path in files)


@pytest.mark.parametrize(
    ("source", "line"), [(URL, f"mll-hf[models,space] @ {URL}"), ("our-mll==1", "our-mll[models,space]==1")]
)
def test_a_space_installs_what_the_user_names(hub, wheel, monkeypatch, source, line):
    monkeypatch.setenv("MLL_HF_PACKAGE", source)
    assert push_space.main(["mll_autolabel", SPACE]) == 0
    assert hub.files("space", SPACE)["requirements.txt"].decode() == f"{line}\n"
    assert wheel.name not in hub.files("space", SPACE)


def test_what_cannot_be_published_is_refused_in_one_line(hub, wheel, monkeypatch, capsys):
    def complaint(space=SPACE):
        assert push_space.main(["mll_autolabel", space]) == 1
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        return output.err

    hub.put("space", "alice/hidden", {"app.py": b"old"})
    hub.repos["space", "alice/hidden"].private = True
    assert "has no public URL" in complaint("alice/hidden")
    assert "may not do this" in complaint("bob/space")
    monkeypatch.setenv("MLL_HF_PACKAGE", "nowhere.whl")
    assert "cannot read the wheel nowhere.whl" in complaint()
    monkeypatch.delenv("MLL_HF_PACKAGE")
    wheel.unlink()
    assert "is not on a package registry; build a wheel" in complaint()
    assert hub.files("space", "alice/hidden") == {"app.py": b"old"}
    assert ("space", SPACE) not in hub.repos
