"""The tiny Hub answers as the real one: rights, pages, rate limits, queued jobs, and transfers through Xet."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers

ANONYMOUS = HfApi(token=False)


def refusal(call):
    """Status of the answer that a call ends with."""
    with pytest.raises(HfHubHTTPError) as refused:
        call()
    return refused.value.response.status_code


# ---- rights


def test_a_private_repo_is_missing_for_everyone_else(hub, api, reader):
    hub.put("model", "alice/secret", {"a.txt": b"1"})
    hub.repos["model", "alice/secret"].private = True
    assert api.model_info("alice/secret").private
    for client, status in ((reader, 404), (ANONYMOUS, 401)):
        with pytest.raises(RepositoryNotFoundError) as missing:
            client.model_info("alice/secret")
        assert missing.value.response.status_code == status
        assert list(client.list_models()) == []
    assert [model.id for model in api.list_models()] == ["alice/secret"]


def test_of_a_gated_repo_everyone_sees_the_list_of_files(hub, reader):
    hub.put("model", "alice/gated", {"a.txt": b"1"})
    hub.repos["model", "alice/gated"].gated = "manual"
    for client, status in ((reader, 403), (ANONYMOUS, 401)):
        assert client.list_repo_files("alice/gated") == ["a.txt"]
        with pytest.raises(GatedRepoError) as gated:
            hf_hub_download("alice/gated", "a.txt", token=client.token)
        assert gated.value.response.status_code == status
    hub.repos["model", "alice/gated"].granted.add("bob")
    assert hf_hub_download("alice/gated", "a.txt", token=reader.token)


def test_nobody_changes_the_repo_of_another(hub, reader):
    hub.put("model", "alice/model", {"a.txt": b"1"})
    add = [CommitOperationAdd("b.txt", b"2")]
    for client, status in ((reader, 403), (HfApi(token="hf_read_only_token"), 403), (ANONYMOUS, 401)):
        assert refusal(lambda client=client: client.create_commit("alice/model", add, commit_message="b")) == status
        assert refusal(lambda client=client: client.update_repo_settings("alice/model", private=True)) == status
        assert refusal(lambda client=client: client.delete_repo("alice/model")) == status
        assert refusal(lambda client=client: client.create_tag("alice/model", tag="v1")) == status
    assert list(hub.files("model", "alice/model")) == ["a.txt"]
    assert reader.create_commit("alice/model", add, commit_message="b", create_pr=True).pr_num == 1


def test_who_may_write_is_answered_before_anything_is_written(hub, api, reader):
    hub.orgs["acme"] = {"alice": "write", "bob": "contributor"}
    for repo_id in ("acme/model", "acme/other"):
        api.create_repo(repo_id)
    reader.create_repo("acme/of-bob")
    api.auth_check("acme/model", write=True)
    reader.auth_check("acme/of-bob", write=True)
    assert refusal(lambda: reader.auth_check("acme/model", write=True)) == 403
    hub.scopes["hf_test_token"] = {"acme/other"}
    api.auth_check("acme/other", write=True)
    assert refusal(lambda: api.auth_check("acme/model", write=True)) == 403
    api.auth_check("acme/model")


# ---- listings


def test_listings_are_sorted_and_filtered(hub, api):
    for name, downloads, tags in (("a", 5, "clip, zero"), ("b", 9, "clip"), ("c", 7, "zero, clip")):
        hub.put("dataset", f"alice/{name}", {"README.md": f"---\ntags: [{tags}]\n---\n".encode()})
        hub.repos["dataset", f"alice/{name}"].downloads = downloads
    names = [found.id for found in api.list_datasets(filter="clip", sort="downloads")]
    assert names == ["alice/b", "alice/c", "alice/a"]
    assert [found.id for found in api.list_datasets(filter=["clip", "zero"], sort="downloads")] == [names[1], names[2]]


# ---- rate limits


def test_requests_to_api_and_resolvers_are_counted_apart_and_by_user(hub, api):
    hub.put("model", "alice/model", {"a.txt": b"1"})
    hub.limit(api=2, resolvers=1)

    def ask(path, token="hf_test_token"):
        return get_session().get(f"{api.endpoint}/{path}", headers={"Authorization": f"Bearer {token}"})

    assert [ask("api/models").status_code for _ in range(3)] == [200, 200, 429]
    assert [ask("alice/model/resolve/main/a.txt").status_code for _ in range(2)] == [200, 429]
    refused = ask("api/models")
    limit = parse_ratelimit_headers(refused.headers)
    assert (limit.resource_type, limit.remaining, limit.limit, limit.window_seconds) == ("api", 0, 2, 300)
    assert 0 < limit.reset_in_seconds <= 300
    assert ask("api/models", "hf_reader_token").status_code == 200
    hub.elapsed += limit.reset_in_seconds
    assert ask("api/models").status_code == 200
