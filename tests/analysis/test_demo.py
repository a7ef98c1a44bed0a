"""The interactive page: what it computes, and its API over HTTP; bad pictures are one sentence."""

import shutil
import subprocess
import types

import jax
import numpy as np
import pytest
from PIL import Image

import crate_jax
from crate_jax.analysis import demo, demo_page
from crate_jax.config import default_config

SMALL = {"image_size": 16, "patch_size": 4, "width": 16, "num_heads": 2, "depth": 2, "decoder_depth": 1}


def exhibit(name="crate_mae_tiny", **options):
    model = crate_jax.create_model(name, **SMALL | options)
    params = crate_jax.init_params(model, jax.random.key(0))
    subject = types.SimpleNamespace(
        source=name, model=model, params=params, config=default_config(), statistics=((0.5,) * 3, (0.25,) * 3)
    )
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    return demo.Exhibit(subject, images)


@pytest.fixture(scope="module")
def crate():
    return exhibit(mask_mode="drop")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_painted_patches_are_removed(crate):
    painted = np.zeros((160, 160), bool)
    painted[45:55, 85:95] = True  # inside the patch of row 1, column 2
    mask = crate.mask(painted)
    assert mask.sum() == 1 and mask.reshape(4, 4)[1, 2] == 1
    painted[:] = True
    assert crate.mask(painted).sum() == 15  # one stays visible
    random = crate.mask(ratio=0.5)
    assert random.sum() == 8 and not np.array_equal(random, crate.mask(ratio=0.5, seed=1))
    mark = np.zeros((8, 8, 4), np.uint8)
    mark[1, 1, 3] = 255
    assert demo.painted_on({"layers": [mark]}).sum() == 1 and demo.painted_on(None) is None


def test_a_picture_is_read_for_a_rectangular_network(crate, picture):
    wide = types.SimpleNamespace(model=crate.model.clone(image_size=(8, 24)), images=np.zeros((1, 8, 24, 3)))
    wide.config = crate.config
    assert demo.Exhibit.read(wide, picture).shape == (8, 24, 3)


def test_completion_is_the_networks(crate, picture):
    """Visible patches are the picture's, the others what the network predicts for this mask; the error is the loss."""
    pixels, mask = crate.read(picture), crate.mask(ratio=0.5)
    masked, completed, error = crate.complete(pixels, mask)
    image = (pixels[None] / 255 - 0.5) / 0.25
    model = crate.model.clone(mask_ratio=0.5)
    prediction = model.apply({"params": crate.params}, np.float32(image), mask[None]).prediction_BxNxF
    np.testing.assert_allclose(error, crate_jax.masked_mse(np.float32(image), prediction, mask[None], 4), rtol=1e-3)
    removed = mask.reshape(4, 4).repeat(4, 0).repeat(4, 1) > 0
    np.testing.assert_allclose(completed[~removed], pixels[~removed] / 255, atol=1e-3)
    np.testing.assert_allclose(masked[removed], 0.5, atol=1e-3)
    np.testing.assert_allclose(masked[~removed], pixels[~removed] / 255, atol=1e-3)


def test_completion_in_passes(crate, picture):
    """Each pass fills patches and keeps the earlier ones; the first pass's error is that of one pass."""
    pixels, mask = crate.read(picture), crate.mask(ratio=0.75)
    steps = crate.passes(pixels, mask)
    assert len(steps) == 3
    gray = [np.all(step == 0.5, -1) for step, _ in steps]
    removed = mask.reshape(4, 4).repeat(4, 0).repeat(4, 1) > 0
    assert removed.sum() > gray[0].sum() > gray[1].sum() > gray[2].sum() == 0
    np.testing.assert_allclose(steps[0][0][~gray[0]], steps[2][0][~gray[0]])
    np.testing.assert_allclose(steps[0][1], crate.complete(pixels, mask)[2], rtol=1e-4)
    crate.config.norm_pix_loss = True
    try:
        with pytest.raises(crate_jax.UserError, match="norm_pix_loss"):
            crate.passes(pixels, mask)
    finally:
        crate.config.norm_pix_loss = False


def test_names_tell_runs_apart():
    assert demo.short_names(["/a/b/quickstart"]) == ["quickstart"]
    assert demo.short_names(["workdirs/one/seed_0", "workdirs/two/seed_0"]) == ["one/seed_0", "two/seed_0"]
    assert demo.short_names(["runs/a", "runs/a"]) == ["a", "a"]
    assert demo.short_names(["photographs"]) == ["photographs"]


def test_a_look_into_a_layer(crate, picture):
    pixels = crate.read(picture)
    found = crate.look(pixels, 1, 6)
    image = np.float32((pixels[None] / 255 - 0.5) / 0.25)
    measured = crate_jax.measure_layers(crate.model, crate.params, image)
    np.testing.assert_allclose(found["numbers"]["nonzero"], measured["nonzero"][1, 0], rtol=1e-5)
    attention = crate_jax.attention_maps(crate.model, crate.params, image, 1)[0, :, 7].mean(0)
    np.testing.assert_allclose(found["attention_RxC"].reshape(-1), attention[1:], atol=1e-5)
    output = crate_jax.trace(crate.model, crate.params, image)[1]["encoder_01"]["output"][0, 7]
    atom, value, patches = found["atoms"][0]
    assert atom == int(np.argmax(output)) and np.isclose(value, output.max(), rtol=1e-4)
    assert len(patches) == 5 and patches[0].shape == (4, 4, 3)


def test_networks_without_sparse_codes(picture):
    vit = exhibit("vit_mae_small", decoder_width=16, decoder_num_heads=2)
    found = vit.look(vit.read(picture), 0, 0)
    assert found["atoms"] == [] and "coding_rate_orthonormal" not in found["numbers"]
    classifier = crate_jax.create_model("crate_tiny", **{k: v for k, v in SMALL.items() if k != "decoder_depth"})
    subject = types.SimpleNamespace(source="c", params={}, config=None, statistics=None, model=classifier)
    with pytest.raises(crate_jax.UserError, match="no decoder"):
        demo.Exhibit(subject, np.zeros((1, 16, 16, 3), np.uint8))


def test_bad_pictures_are_one_sentence(crate, tmp_path, monkeypatch):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(crate_jax.UserError, match=r"broken\.jpg cannot be read"):
        crate.read(tmp_path / "broken.jpg")
    (tmp_path / "large.bin").write_bytes(bytes(demo.MOST_MEGABYTES * 2**20 + 1))
    with pytest.raises(crate_jax.UserError, match="larger than"):
        crate.read(tmp_path / "large.bin")
    with pytest.raises(crate_jax.UserError, match="choose or upload"):
        crate.read(None)
    Image.new("1", (10_000, 8_000)).save(tmp_path / "wide.png")
    monkeypatch.setattr(Image.Image, "load", None)  # its pixels would take 320 MB
    with pytest.raises(crate_jax.UserError, match=r"wide\.png has 10000 x 8000 pixels; upload a smaller picture"):
        crate.read(tmp_path / "wide.png")


def test_the_page_over_http(crate, picture, tmp_path):
    """Served on loopback; the calls answer, for two networks side by side; a broken picture is a sentence."""
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    other = exhibit(mask_mode="token")
    other.name = "<b>other</b>"
    page = demo_page.build([crate, other], [(picture, "a")])
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)
    try:
        client = Client(url, verbose=False)
        asked = (handle_file(str(picture)), None, 0.5, 0)
        html = client.predict(*asked, api_name="/complete")
        assert html.count("<figure>") == 4 and html.count("8 of 16 patches removed") == 2
        assert "<h4>&lt;b&gt;other" in html and "<b>" not in html
        assert client.predict(*asked, api_name="/passes").count("<figure>") == 8
        html = client.predict(asked[0], 1, 0.5, 0.5, api_name="/layer")
        assert html.count("encoder_01") == 2 and "non-zero" in html and html.count("row 2, column 2") == 2
        (tmp_path / "broken.jpg").write_bytes(b"no picture")
        with pytest.raises(Exception, match="cannot be read as a picture"):
            client.predict(handle_file(str(tmp_path / "broken.jpg")), None, 0.5, 0, api_name="/complete")
    finally:
        page.close()


def test_the_page_in_a_browser(crate, picture, tmp_path):
    """Chromium opens it: the first picture is completed and looked into unasked, and the console has no error."""
    pytest.importorskip("gradio")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    crate.look(crate.read(picture), 0, 10), crate.complete(crate.read(picture), crate.mask())  # compiled before
    page = demo_page.build([crate], [(picture, "a")])
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}",
    ]
    try:
        command = [browser, *flags, "--virtual-time-budget=30000", "--dump-dom", url]
        found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    finally:
        page.close()
    assert found.stdout.count("<figure>") == 5 and "encoder_00" in found.stdout
    errors = [
        line for line in found.stderr.splitlines() if "CONSOLE" in line and ("Uncaught" in line or "rror" in line)
    ]
    assert not errors
