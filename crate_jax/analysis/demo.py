"""What the interactive page computes: a painted mask completed, and every layer looked into; one network or two.

`Exhibit` computes; `answer`, `passes_answer` and `layer_answer` make HTML of it; the page is in `demo_page`.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis import demo_html, dictionary
from crate_jax.analysis.attention_maps import layer_codes
from crate_jax.analysis.diffusion import iterative_completion
from crate_jax.analysis.layerwise import attention_weights, has_attention, measure_layers, sparse_codes
from crate_jax.analysis.principal_components import colours
from crate_jax.data.own_pictures import fitted
from crate_jax.data.picture import CorruptPicture, opened, upright
from crate_jax.errors import UserError
from crate_jax.evaluation.reconstruct import complete
from crate_jax.figures import masked_image
from crate_jax.models.batches import over_images
from crate_jax.models.trace import trace
from crate_jax.operators.patches import grid_of, unpatchify
from crate_jax.training.objective import denormalise, normalise

SHOWN = 384  # pixels of a picture on the page
STEPS = 16  # different numbers of removed patches, so that few programs are compiled
MOST_MEGABYTES = 20
MOST_PIXELS = 2**26
ATOMS = 6
MEASURED = {
    "coding_rate_orthonormal": "coding rate R^c, orthonormal U, nats",
    "nonzero": "fraction of non-zero code entries",
    "effective_rank": "effective rank of the tokens",
    "token_similarity": "mean cosine between two tokens",
    "attention_self": "attention of a token to itself",
}


class Exhibit:
    """A network and what the page asks of it.

    Args:
        subject: an `evaluation.subject.Subject` whose network is a masked autoencoder.
        training_images: uint8 NxHxWxC, in which the patches that activate an atom most are looked up.
        name: shown on the page; None: the subject's source.

    Raises:
        UserError: a network without a decoder.
    """

    def __init__(self, subject, training_images, name=None):
        self.name, self.model, self.params = name or subject.source, subject.model, subject.params
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
            picture, orientation = opened(path.read_bytes(), MOST_PIXELS)
            if picture.width * picture.height > MOST_PIXELS:  # before they are decoded
                raise UserError(f"{path.name} has {picture.width} x {picture.height} pixels; upload a smaller picture.")
            picture = upright(picture, orientation, self.model.channels)
        except (CorruptPicture, OSError) as error:
            raise UserError(f"{path.name} cannot be read as a picture ({error}).") from None
        return fitted(picture, self.images.shape[1:3], self.config.data.interpolation)

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
            is pasted into the completion. The error is in the units of the loss.
        """
        model = self._with_visible(int(self.num_patches - mask_N.sum()))
        image_1xHxWxC, mask_1xN = self._normalised(pixels_HxWxC[None]), jnp.asarray(mask_N)[None]
        found = complete(model, self.params, image_1xHxWxC, mask_1xN, *self.statistics, self.config.norm_pix_loss)
        masked = masked_image(found.original[0], found.mask[0])
        return masked, np.clip(found.reconstruction[0], 0, 1), float(found.masked_mse_B[0])

    def _with_visible(self, visible):
        return self.model.clone(mask_ratio=1 - (visible + 0.5) / self.num_patches)  # int(N (1 - ratio)) is `visible`

    def passes(self, pixels_HxWxC, mask_N):
        """Completes a picture in several passes, the patches of least uncertainty first.

        Returns:
            [(picture HxWxC after that pass, what is still removed in gray; squared error of all removed patches if the
            rest were filled in then)].

        Raises:
            UserError: the network predicts standardised patches, which cannot be pasted into an image.
        """
        if self.config.norm_pix_loss:
            raise UserError(
                f"{self.name} predicts standardised patches (norm_pix_loss), which the next pass cannot see as pixels."
            )
        images, mask_1xN = self._normalised(pixels_HxWxC[None]), jnp.asarray(mask_N)[None]
        found = iterative_completion(self.model, self.params, images, mask_1xN)
        patches_1xNxF = jnp.asarray(found["iterative_BxNxF"])
        image = unpatchify(patches_1xNxF, self.model.patch_size, grid=self.grid)[0]
        picture = np.clip(np.asarray(denormalise(np.asarray(image), *self.statistics)), 0, 1)
        size = self.model.patch_size
        filled_HxWx1 = found["filled_BxN"][0].reshape(self.grid).repeat(size, 0).repeat(size, 1)[..., None]
        errors = found["after_pass_PxB"][:, 0]
        return [(masked_image(picture, filled_HxWx1 > number), float(x)) for number, x in enumerate(errors, 1)]

    def programs(self):
        """Functions that each compile something the page will ask for, what it asks first first."""
        pixels, usual_N = self.images[0], self.mask()
        yield lambda: self.complete(pixels, usual_N)
        yield lambda: self.look(pixels, 0, 0)
        if not self.config.norm_pix_loss:
            yield lambda: self.passes(pixels, usual_N)
        for count in range(1, STEPS):
            yield functools.partial(self.complete, pixels, self.mask(ratio=count / STEPS))

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
        atoms = []
        if self.strongest is not None:
            values_A = sparse[1 + patch]
            for atom in np.argsort(-values_A, kind="stable")[:ATOMS]:
                if values_A[atom] > 0:
                    atoms.append((int(atom), float(values_A[atom]), self._training_patches(layer, atom)))
        return {
            "numbers": {name: float(measured[name]) for name in MEASURED if name in measured},
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
    image = as_bytes(image)
    factor = max(1, side // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def as_bytes(image):
    """Any picture as uint8 HxWx3."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = (255 * np.clip(image, 0, 1)).astype(np.uint8)
    image = image[..., None] if image.ndim == 2 else image
    return np.broadcast_to(image, (*image.shape[:2], 3))


def heat(map_RxC):
    """A map in colours."""
    import matplotlib

    return matplotlib.colormaps["magma"](map_RxC / max(float(map_RxC.max()), 1e-12))[..., :3]


def short_names(sources):
    """The ends of paths that tell runs apart."""
    parts = [pathlib.PurePath(one).parts or (one,) for one in sources]
    same = 0
    while all(len(one) > same + 1 for one in parts) and (len(parts) == 1 or len({one[same] for one in parts}) == 1):
        same += 1
    return ["/".join(one[same:]) for one in parts]


def answer(exhibits, path, painted, ratio, seed):
    """Completions of all networks, as HTML."""

    def figures(one, pixels, mask_N):
        masked, completed, error = one.complete(pixels, mask_N)
        return [
            demo_html.figure(as_bytes(masked), f"masked: {int(mask_N.sum())} of {len(mask_N)} patches removed"),
            demo_html.figure(as_bytes(completed), f"completed: squared error {error:.4f} on the removed patches"),
        ]

    return demo_html.columns(_rows(exhibits, path, painted, ratio, seed, figures))


def passes_answer(exhibits, path, painted, ratio, seed):
    """Completions in several passes of all networks, as HTML."""

    def figures(one, pixels, mask_N):
        _, completed, error = one.complete(pixels, mask_N)
        yield demo_html.figure(as_bytes(completed), f"one pass: squared error {error:.4f}")
        for number, (picture, so_far) in enumerate(one.passes(pixels, mask_N), 1):
            yield demo_html.figure(as_bytes(picture), f"after pass {number}: error {so_far:.4f}")

    note = "Each pass fills in the patches whose prediction is most certain; the next pass sees them. The error counts "
    note += "all removed patches, with those still gray filled in by that pass."
    return demo_html.columns(_rows(exhibits, path, painted, ratio, seed, figures), note)


def _rows(exhibits, path, painted, ratio, seed, figures):
    """(name, row of the figures of the masked picture) of each network."""
    asked = ((one, one.read(path), one.mask(painted, ratio, int(seed))) for one in exhibits)
    return [(one.name, demo_html.row(figures(one, pixels, mask_N))) for one, pixels, mask_N in asked]


def layer_answer(exhibits, path, layer, place):
    """One layer of all networks, as HTML."""
    columns = []
    for one in exhibits:
        index = min(int(layer), one.model.depth - 1)
        row, column = (min(int(fraction * size), size - 1) for fraction, size in zip(place, one.grid, strict=True))
        pixels = one.read(path)
        found = one.look(pixels, index, row * one.grid[1] + column)
        framed, size = np.array(as_bytes(pixels)), one.model.patch_size
        framed[row * size : (row + 1) * size, column * size : (column + 1) * size, 0] = 255
        figures = [demo_html.figure(framed, f"the chosen patch: row {row}, column {column}")]
        if found["attention_RxC"] is not None:
            figures.append(demo_html.figure(as_bytes(heat(found["attention_RxC"])), "attention of the chosen patch"))
        figures.append(demo_html.figure(as_bytes(found["colours_RxCx3"]), "principal components of the codes"))
        atoms = [(f"atom {atom}", f"{value:.2f}", map(as_bytes, patches)) for atom, value, patches in found["atoms"]]
        numbers = [(MEASURED[name], f"{value:.3g}") for name, value in found["numbers"].items()]
        columns.append((f"{one.name}, encoder_{index:02d}", demo_html.layer(figures, numbers, atoms)))
    return demo_html.columns(columns)


def painted_on(painting):
    """Where something was painted, HxW bool, or None: of what Gradio's editor gives."""
    layers = (painting or {}).get("layers") or []
    marks = [np.asarray(one)[..., 3] > 0 for one in layers if one is not None and np.ndim(one) == 3]
    return np.any(marks, 0) if marks else None
