"""An interactive page (Gradio): complete a painted mask, and look into every layer; one network or two side by side.

`Exhibit` computes what is shown and knows nothing of the page; `build` makes the page.
"""

import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis import dictionary
from crate_jax.analysis.attention_maps import layer_codes
from crate_jax.analysis.batches import over_images
from crate_jax.analysis.diffusion import predict
from crate_jax.analysis.layerwise import attention_weights, has_attention, measure_layers, sparse_codes
from crate_jax.analysis.principal_components import colours
from crate_jax.data.augment import centre_crop
from crate_jax.data.picture import CorruptPicture, decoded
from crate_jax.errors import UserError
from crate_jax.models.trace import trace
from crate_jax.operators.losses import patch_mse
from crate_jax.operators.patches import grid_of, patchify, unpatchify
from crate_jax.training.objective import denormalise, normalise

SHOWN = 384  # pixels of a picture on the page
STEPS = 16  # different numbers of removed patches, so that few programs are compiled
MOST_MEGABYTES = 20
MOST_PIXELS = 2**26
ATOMS = 6


class Exhibit:
    """A network and what the page asks of it.

    Args:
        subject: an `evaluation.subject.Subject` whose network is a masked autoencoder.
        training_images: uint8 NxHxWxC, in which the patches that activate an atom most are looked up.

    Raises:
        UserError: a network without a decoder.
    """

    def __init__(self, subject, training_images):
        self.name, self.model, self.params = subject.source, subject.model, subject.params
        if not getattr(self.model, "decoder_names", None):
            raise UserError(
                f"{subject.source} has no decoder, so nothing can be completed; give a pre-trained network."
            )
        self.config, self.statistics = subject.config, subject.statistics
        self.images = training_images
        self.grid = grid_of(training_images.shape[1:3], self.model.patch_size)
        self.strongest = self._strongest_patches() if dictionary.has_sparse_codes(self.params, "encoder_00") else None

    @property
    def num_patches(self):
        """N."""
        return self.grid[0] * self.grid[1]

    def _normalised(self, images):
        return jnp.asarray(normalise(images, *self.statistics), jnp.float32)

    def _strongest_patches(self, count=5):
        """(image_LxAxC, patch_LxAxC): the training patches that activate each atom most."""
        layers = tuple(range(self.model.depth))
        images = np.asarray(self._normalised(self.images))
        values = over_images(lambda x: dictionary.atom_usage(self.model, self.params, x, layers)[1], images)
        found = [dictionary.strongest_patches(one, range(one.shape[1]), count)[:2] for one in values]
        return [np.stack(one) for one in zip(*found, strict=True)]

    def read(self, path):
        """A picture's file to the network's pixels, uint8 HxWxC.

        Raises:
            UserError: no file, a file that is no picture, or one that is too large.
        """
        if not path:
            raise UserError("choose or upload a picture first.")
        path = pathlib.Path(path)
        if path.stat().st_size > MOST_MEGABYTES * 2**20:
            raise UserError(f"{path.name} is larger than {MOST_MEGABYTES} MB; upload a smaller picture.")
        try:
            picture = decoded(path.read_bytes(), self.model.channels)
            if picture.size[0] * picture.size[1] > MOST_PIXELS:
                raise UserError(
                    f"{path.name} has {picture.size[0]} x {picture.size[1]} pixels; upload a smaller picture."
                )
        except (CorruptPicture, OSError) as error:
            raise UserError(f"{path.name} cannot be read as a picture ({error}).") from None
        size = self.model.image_size
        pixels = np.asarray(centre_crop(picture, size, size, self.config.data.interpolation))
        return pixels.reshape(*self.images.shape[1:3], self.model.channels)

    def mask(self, painted_HxW=None, ratio=0.6, seed=0):
        """Removed patches: those painted on, filled up at random to one of `STEPS` numbers; or random ones.

        Args:
            painted_HxW: True where the picture was painted on, any size; None: a random mask.
            ratio: fraction of patches that a random mask removes.
            seed: of the random ones.

        Returns:
            mask_N, 1 where removed; at least one patch stays visible.
        """
        count, rng = self.num_patches, np.random.default_rng(seed)
        chosen_N = np.zeros(count, bool)
        if painted_HxW is not None and painted_HxW.any():
            y, x = np.nonzero(painted_HxW)
            rows = y * self.grid[0] // painted_HxW.shape[0]
            chosen_N[rows * self.grid[1] + x * self.grid[1] // painted_HxW.shape[1]] = True
            wanted = chosen_N.sum()
        else:
            wanted = ratio * count
        step = max(1, count // STEPS)
        wanted = int(min(max(-(-wanted // step) * step, step), count - 1))
        order = np.argsort(rng.random(count) - 2.0 * chosen_N)
        mask_N = np.zeros(count, np.float32)
        mask_N[order[:wanted]] = 1
        return mask_N

    def complete(self, pixels_HxWxC, mask_N):
        """Completes a picture.

        Returns:
            (masked HxWxC, completed HxWxC, squared error of the removed patches): pixels from 0 to 1; what is visible
            is pasted into the completion.
        """
        image_1xHxWxC = self._normalised(pixels_HxWxC[None])
        patches_1xNxF = patchify(image_1xHxWxC, self.model.patch_size)
        mask_1xN = jnp.asarray(mask_N)[None]
        hidden_1xNxF = patches_1xNxF * (1 - mask_1xN[..., None])
        visible = self.num_patches - int(mask_N.sum())
        prediction = predict(self.model, self.params, hidden_1xNxF, mask_1xN, visible, image_1xHxWxC)
        error_1xN = patch_mse(image_1xHxWxC, prediction, self.model.patch_size, self.config.norm_pix_loss)
        if self.config.norm_pix_loss:  # standardised predictions: each patch's own mean and deviation are put back
            deviation = jnp.std(patches_1xNxF, -1, keepdims=True, ddof=1)
            prediction = prediction * deviation + jnp.mean(patches_1xNxF, -1, keepdims=True)
        answer = jnp.where(mask_1xN[..., None] > 0, prediction, patches_1xNxF)
        masked, completed = (self._picture(x) for x in (hidden_1xNxF, answer))
        return masked, completed, float(jnp.sum(error_1xN * mask_1xN) / jnp.sum(mask_1xN))

    def _picture(self, patches_1xNxF):
        image = unpatchify(patches_1xNxF, self.model.patch_size, grid=self.grid)[0]
        return np.clip(np.asarray(denormalise(np.asarray(image), *self.statistics)), 0, 1)

    def look(self, pixels_HxWxC, layer, patch):
        """One layer on one picture.

        Args:
            pixels_HxWxC: from `read`.
            layer: from 0.
            patch: index of the query.

        Returns:
            A dictionary: `numbers` ({measurement: value}), `colours_RxCx3` (principal components of the codes),
            `attention_RxC` (of the patch, mean over subspaces; None for layers without), `atoms`
            ([(atom, value, [training patches, uint8])], the strongest first; empty without sparse codes).
        """
        image_1xHxWxC = self._normalised(pixels_HxWxC[None])
        measured, attention, codes, sparse = jax.device_get(
            _look(self.model, self.params, image_1xHxWxC, layer, 1 + patch)
        )
        names = ("coding_rate_orthonormal", "nonzero", "effective_rank", "token_similarity", "attention_self")
        atoms = []
        if self.strongest is not None:
            values_A = sparse[1 + patch]
            for atom in np.argsort(-values_A, kind="stable")[:ATOMS]:
                if values_A[atom] > 0:
                    atoms.append((int(atom), float(values_A[atom]), self._training_patches(layer, atom)))
        return {
            "numbers": {name: float(measured[name]) for name in names if name in measured},
            "colours_RxCx3": colours(codes[None], self.grid)["all_BxRxCx3"][0],
            "attention_RxC": None if attention is None else attention[1:].reshape(self.grid),
            "atoms": atoms,
        }

    def _training_patches(self, layer, atom):
        size, found = self.model.patch_size, []
        images, patches = (one[layer, atom] for one in self.strongest)
        for image, patch in zip(images, patches, strict=True):
            y, x = (size * place for place in divmod(int(patch), self.grid[1]))
            found.append(self.images[image, y : y + size, x : x + size])
        return found


@functools.partial(jax.jit, static_argnames=("model",))
def _look(model, params, images_1xHxWxC, layer, token):
    """Measurements, the token's attention, codes and sparse codes of one layer; one program for all layers."""
    layers = trace(model, params, images_1xHxWxC)[1]
    names = model.encoder_names
    measured = {key: value[layer, 0] for key, value in measure_layers(model, params, images_1xHxWxC).items()}
    attention = None
    if has_attention(model):
        weights = jnp.stack([attention_weights(model, name, layers[name])[0] for name in names])
        attention = jnp.mean(weights[layer, :, token], 0)
    codes = jnp.stack([layer_codes(layers, name)[0] for name in names])[layer]
    sparse = jnp.stack([sparse_codes(layers[name])[0] for name in names])[layer]
    return measured, attention, codes.astype(jnp.float32), sparse.astype(jnp.float32)


def enlarged(image, side=SHOWN):
    """A small picture in large pixels: uint8 HxWx3."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = (255 * np.clip(image, 0, 1)).astype(np.uint8)
    image = np.repeat(image[..., None] if image.ndim == 2 else image, 1 if image.shape[-1] == 3 else 3, -1)[..., :3]
    factor = max(1, side // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def heat(map_RxC):
    """A map in colours."""
    import matplotlib

    return matplotlib.colormaps["magma"](map_RxC / max(float(map_RxC.max()), 1e-12))[..., :3]


def strip(patches, side=48):
    """Patches side by side."""
    tiles = [np.pad(enlarged(patch, side), ((2, 2), (2, 2), (0, 0)), constant_values=255) for patch in patches]
    return np.concatenate(tiles, 1)


def answer(exhibits, path, painted, ratio, seed):
    """Completions of all networks: (masked pictures and completions with their captions, sentence)."""
    gallery, words = [], []
    for one in exhibits:
        pixels = one.read(path)
        mask_N = one.mask(painted, ratio, int(seed))
        masked, completed, error = one.complete(pixels, mask_N)
        gallery += [(enlarged(masked), f"{one.name}: {int(mask_N.sum())} of {len(mask_N)} patches removed")]
        gallery += [(enlarged(completed), f"{one.name}: completed")]
        words.append(f"{one.name}: squared error of the removed patches {error:.4f}")
    return gallery, "; ".join(words) + "."


def layer_answer(exhibits, path, layer, place):
    """One layer of all networks: (pictures with captions, table as Markdown)."""
    gallery, rows = [], []
    for one in exhibits:
        index = min(int(layer), one.model.depth - 1)
        row, column = (min(int(fraction * size), size - 1) for fraction, size in zip(place, one.grid, strict=True))
        pixels = one.read(path)
        found = one.look(pixels, index, row * one.grid[1] + column)
        title = f"{one.name}, encoder_{index:02d}"
        framed, size = pixels.copy(), one.model.patch_size
        framed[row * size : (row + 1) * size, column * size : (column + 1) * size, 0] = 255
        gallery.append((enlarged(framed), f"{one.name}: the chosen patch (row {row}, column {column})"))
        gallery.append((enlarged(found["colours_RxCx3"]), f"{title}: principal components"))
        if found["attention_RxC"] is not None:
            gallery.append((enlarged(heat(found["attention_RxC"])), f"{title}: attention of the patch"))
        for atom, value, patches in found["atoms"]:
            gallery.append((strip(patches), f"{title}: atom {atom}, code {value:.2f}; strongest training patches"))
        rows += [f"| {title} | {name.replace('_', ' ')} | {value:.3g} |" for name, value in found["numbers"].items()]
    return gallery, "\n".join(["| layer | measurement | value |", "|---|---|---|", *rows])


def _handlers(gr, exhibits, examples):
    """What the page calls: complete, look, show, click, pick."""

    def guarded(compute):
        """User's mistakes as a sentence on the page."""

        @functools.wraps(compute)
        def run(*arguments):
            try:
                return compute(*arguments)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return run

    @guarded
    def complete(path, painting, ratio, seed):
        return answer(exhibits, path, painted_on(painting), ratio, seed)

    @guarded
    def look(path, layer, row, column):
        return layer_answer(exhibits, path, layer, (row, column))

    @guarded
    def show(path):
        return enlarged(exhibits[0].read(path)), enlarged(exhibits[0].read(path))

    def click(event: gr.SelectData):  # type: ignore[name-defined]
        height, width = (
            size * max(1, SHOWN // max(exhibits[0].images.shape[1:3])) for size in exhibits[0].images.shape[1:3]
        )
        return event.index[1] / height, event.index[0] / width

    def pick(event: gr.SelectData):  # type: ignore[name-defined]
        return str(examples[event.index])

    return types.SimpleNamespace(complete=complete, look=look, show=show, click=click, pick=pick)


def build(exhibits, examples):
    """The page.

    Args:
        exhibits: one `Exhibit` or two.
        examples: paths of pictures to choose from.

    Returns:
        A `gradio.Blocks`, not launched. Its API has `complete` and `layer`.

    Raises:
        UserError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError:
        raise UserError('the page needs Gradio: pip install "crate-jax[demo]".') from None

    on = _handlers(gr, exhibits, examples)
    names = " and ".join(one.name for one in exhibits)
    with gr.Blocks(title=f"Layer by layer: {names}", analytics_enabled=False) as page:
        gr.Markdown(
            f"## Layer by layer: {names}\nChoose or upload a picture. Paint over what is to be removed, or leave it to "
            "the slider; then look at what each encoder layer computes for the patch you click."
        )
        with gr.Row():
            # an image component would open the picture itself, and answer a broken one with a traceback
            path = gr.File(type="filepath", label="picture")
            painting = gr.ImageEditor(
                type="numpy", label="paint over the patches to remove", height=SHOWN, transforms=(), sources=(),
                brush=gr.Brush(colors=["#ff3030"], default_size=24), layers=False,
            )  # fmt: skip
        samples = gr.Gallery(
            [str(one) for one in examples], label="examples", columns=6, height=150, allow_preview=False
        )
        with gr.Row():
            ratio = gr.Slider(0.1, 0.9, 0.6, step=0.05, label="removed patches, where nothing is painted")
            seed = gr.Number(0, label="seed of the mask", precision=0)
            button = gr.Button("Complete", variant="primary")
        completions = gr.Gallery(label="masked and completed", columns=2 * len(exhibits), height="auto")
        error = gr.Markdown()
        depth = max(one.model.depth for one in exhibits)
        with gr.Row():
            query = gr.Image(type="numpy", label="click a patch", interactive=False, height=SHOWN)
            with gr.Column():
                layer = gr.Slider(0, depth - 1, 0, step=1, label="encoder layer")
                table = gr.Markdown()
        row, column = gr.Number(0.5, visible=False), gr.Number(0.5, visible=False)
        inside = gr.Gallery(label="inside the layer", columns=3 * len(exhibits), height="auto")
        asked = {"inputs": [path, layer, row, column], "outputs": [inside, table]}
        samples.select(on.pick, None, path, api_name=False)
        shown = path.change(on.show, path, [painting, query], api_name=False)
        shown.success(on.complete, [path, painting, ratio, seed], [completions, error], api_name=False)
        shown.success(on.look, **asked, api_name=False)
        button.click(on.complete, [path, painting, ratio, seed], [completions, error], api_name="complete")
        layer.release(on.look, **asked, api_name="layer")
        query.select(on.click, None, [row, column], api_name=False).success(on.look, **asked, api_name=False)
    return page


def painted_on(painting):
    """Where something was painted, HxW bool, or None: of what Gradio's editor gives."""
    layers = (painting or {}).get("layers") or []
    marks = [np.asarray(one)[..., 3] > 0 for one in layers if one is not None and np.ndim(one) == 3]
    return np.any(marks, 0) if marks else None
