import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowertune.files import sha256_of
from flowertune.models import backbone as backbone_module
from flowertune.models import pretrained
from flowertune.models.backbone import NOT_TENSORS, load_directory, load_pretrained, load_random

WEIGHTS = "open_clip_model.safetensors"


# What a loaded backbone is


@torch.no_grad()
def test_a_folder_gives_the_features_of_the_untouched_model(small_dir, images):
    reference = open_clip.create_model(f"local-dir:{small_dir}").eval()
    backbone = load_directory(small_dir, text=True)
    texts = ["a photo of a rose", "a red flower with five petals"]
    tokens = open_clip.get_tokenizer(f"local-dir:{small_dir}")(texts)
    image, text = backbone.encode_image(images), backbone.encode_text(texts)
    assert (image - reference.encode_image(images)).abs().max() < 1e-5
    assert (text - reference.encode_text(tokens)).abs().max() < 1e-5
    assert backbone.logit_scale == pytest.approx(reference.logit_scale.exp().item())
    assert image.shape == (4, backbone.embedding_dim) == (4, 32)


def test_a_backbone_is_frozen_and_has_its_facts(small_dir, small):
    assert not any(parameter.requires_grad for parameter in small.model.parameters())
    assert not any(module.training for module in small.model.modules())
    assert (small.name, small.tag, small.activation) == ("small-vit", "local", "gelu")
    assert small.weights_sha256 == sha256_of(small_dir / WEIGHTS)
    assert small.preprocessing.size == (32, 32)
    assert small.preprocessing.mean == (0.5, 0.4, 0.3)


def test_texts_are_encoded_in_parts(small, monkeypatch):
    texts = [f"flower number {n}" for n in range(7)]
    whole = small.encode_text(texts)
    monkeypatch.setattr(backbone_module, "TEXT_BATCH", 3)
    torch.testing.assert_close(small.encode_text(texts), whole)


def test_a_folder_without_text_has_no_tokenizer(small_dir):
    backbone = load_directory(small_dir, text=False)
    assert not backbone.has_text
    assert backbone.tokenizer is None


def test_loading_keeps_the_random_state(small_dir):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_directory(small_dir, text=True)
    assert torch.equal(torch.rand(3), expected)


def test_random_weights_depend_on_their_seed(small_config, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-vit", small_config)
    one, same, other = (load_random("small-vit", seed).weights_sha256 for seed in (1, 1, 2))
    assert one == same != other


# Folders that are not what they should be


@pytest.fixture
def broken(small_dir, tmp_path):
    return shutil.copytree(small_dir, tmp_path / "broken")


def test_missing_folder_and_missing_files_are_named(broken, tmp_path, refusal):
    assert "does not exist; give a folder" in refusal(
        lambda: load_directory(tmp_path / "nowhere", text=True)
    )
    (broken / WEIGHTS).unlink()
    assert WEIGHTS in refusal(lambda: load_directory(broken, text=True))
    (broken / "open_clip_config.json").unlink()
    assert "open_clip_config.json" in refusal(lambda: load_directory(broken, text=True))


def test_truncated_weights_are_refused(broken, refusal):
    whole = (broken / WEIGHTS).read_bytes()
    (broken / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert WEIGHTS in refusal(lambda: load_directory(broken, text=True))


@pytest.mark.parametrize("text", ["{", "{}", '{"model_cfg": {"embed_dim": 3}}', "[1]"])
def test_a_broken_config_is_refused(broken, text, refusal):
    (broken / "open_clip_config.json").write_text(text)
    assert "open_clip_config.json" in refusal(lambda: load_directory(broken, text=True))


def test_weights_of_another_shape_are_refused(broken, refusal):
    config = json.loads((broken / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 16
    (broken / "open_clip_config.json").write_text(json.dumps(config))
    assert "size mismatch" in refusal(lambda: load_directory(broken, text=True))


def test_a_pickle_with_code_is_refused_and_not_executed(broken, tmp_path, refusal):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    (broken / WEIGHTS).unlink()
    torch.save({"visual.proj": Harmful()}, broken / "open_clip_pytorch_model.bin")
    said = refusal(lambda: load_directory(broken, text=True))
    assert said.endswith("open_clip_pytorch_model.bin: " + NOT_TENSORS)  # not how to run it
    (broken / "open_clip_pytorch_model.bin").write_text("just a text\n")
    said = refusal(lambda: load_directory(broken, text=True))
    assert said.endswith("open_clip_pytorch_model.bin: " + NOT_TENSORS)
    assert not (tmp_path / "harm").exists()


def test_a_plain_pickle_of_tensors_is_read(broken, small):
    torch.save(load_file(broken / WEIGHTS), broken / "open_clip_pytorch_model.bin")
    (broken / WEIGHTS).unlink()
    backbone = load_directory(broken, text=True)
    assert torch.equal(backbone.visual.proj, small.visual.proj)


# Names, tags, activations


@pytest.mark.parametrize(
    ("name", "tag", "quick_gelu"),
    [
        ("ViT-B-32", "openai", True),
        ("ViT-B-32-quickgelu", "openai", True),
        ("ViT-B/16", "OpenAI", True),
        ("ViT-B-32", "laion2b-s34b-b79k", False),
        ("ViT-H-14-quickgelu", "dfn5b", True),
    ],
)
def test_the_activation_follows_the_weights(name, tag, quick_gelu):
    assert pretrained.resolve(name, tag)[3] is quick_gelu


def test_every_listed_pair_of_open_clip_resolves_to_a_file_on_the_hub():
    for name, tag in open_clip.list_pretrained():
        assert pretrained.resolve(name, tag)[2]["hf_hub"].count("/") == 2, (name, tag)


def test_quickgelu_with_weights_trained_without_it_is_refused(refusal):
    message = refusal(lambda: load_pretrained("ViT-B-32-quickgelu", "laion2b_s34b_b79k"))
    assert "use 'ViT-B-32'" in message


def test_errors_suggest_close_names_and_tags(refusal):
    assert "ViT-B-32" in refusal(lambda: load_pretrained("vit_b32", "openai"))
    assert "openai" in refusal(lambda: load_pretrained("ViT-B-32", "open_ai"))


@torch.no_grad()
def test_vit_b_32_openai_is_the_quickgelu_model(tmp_path, monkeypatch, roughen):
    """Random weights; the reference is open_clip's own model of the other name."""
    reference = open_clip.create_model("ViT-B-32-quickgelu")
    roughen(reference)
    state = {name: tensor.half() for name, tensor in reference.state_dict().items()}
    save_file(state, tmp_path / WEIGHTS)
    monkeypatch.setattr(pretrained, "fetch", lambda *_: tmp_path / WEIGHTS)
    backbone = load_pretrained("ViT-B-32", "openai")
    (tmp_path / WEIGHTS).unlink()
    assert (backbone.name, backbone.tag, backbone.activation) == ("ViT-B-32", "openai", "quickgelu")
    images, texts = torch.randn(2, 3, 224, 224), ["a photo of a snowdrop", "a rose"]
    for ours, theirs in (
        (backbone.encode_image(images), reference.encode_image(images)),
        (backbone.encode_text(texts), reference.encode_text(backbone.tokenizer(texts))),
    ):
        assert theirs.abs().max() > 0.1
        assert (ours - theirs).abs().max() < 1e-5


# The hub: a stand-in on the loopback


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Points huggingface_hub, with an empty cache, at a URL."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)

    def point(url):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return point


@pytest.fixture
def small_pretrained(small_config, monkeypatch):
    """`small-vit` with the tag `quick`, in open_clip's own lists."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-vit", small_config)
    entry = open_clip.pretrained._pcfg(hf_hub="acme/small/", quick_gelu=True)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-vit", {"quick": entry})


def serving(files):
    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            content = files.get(self.path)
            self.send_response(200 if content else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", '"abc"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("filename", [WEIGHTS, "open_clip_pytorch_model.bin"])
def test_weights_are_fetched_once_and_then_need_no_network(
    hub, small_pretrained, small_dir, tmp_path, filename
):
    content = (small_dir / WEIGHTS).read_bytes()
    if filename.endswith(".bin"):  # a repository without safetensors
        torch.save(load_file(small_dir / WEIGHTS), tmp_path / "weights.bin")
        content = (tmp_path / "weights.bin").read_bytes()
    server = serving({f"/acme/small/resolve/main/{filename}": content})
    hub(f"http://127.0.0.1:{server.server_port}")
    first = load_pretrained("small-vit", "quick")
    server.shutdown()
    server.server_close()
    again = load_pretrained("small-vit", "quick")
    assert first.activation == again.activation == "quickgelu"
    assert first.weights_sha256 == again.weights_sha256
    assert torch.equal(first.visual.proj, again.visual.proj)


def test_a_hub_without_the_file_is_refused(hub, small_pretrained, refusal):
    server = serving({})
    hub(f"http://127.0.0.1:{server.server_port}")
    assert WEIGHTS in refusal(lambda: load_pretrained("small-vit", "quick"))
    server.shutdown()
    server.server_close()


def test_a_hub_that_does_not_answer_fails_within_ten_seconds(
    hub, small_pretrained, caplog, refusal
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub(f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        message = refusal(lambda: load_pretrained("small-vit", "quick"))
        assert time.monotonic() - start < 10
    for part in ("small-vit quick", "127.0.0.1", "backbone=tiny", "backbone.path="):
        assert part in message
    assert not caplog.records


def test_a_name_server_that_does_not_answer_fails(hub, small_pretrained, refusal, monkeypatch):
    silence = threading.Event()
    monkeypatch.setattr(pretrained, "REACH_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: silence.wait(20))
    hub("http://hub.invalid")
    message = refusal(lambda: load_pretrained("small-vit", "quick"))
    silence.set()
    assert "no answer within" in message


def test_an_unreachable_hub_fails_at_once(hub, small_pretrained, refusal):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    hub(f"http://127.0.0.1:{port}")
    assert "cannot fetch" in refusal(lambda: load_pretrained("small-vit", "quick"))
