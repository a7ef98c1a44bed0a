"""The interactive page itself (Gradio): pictures to choose, a mask to paint, layers to look into."""

import functools
import types

from crate_jax.analysis.demo import SHOWN, answer, enlarged, layer_answer, painted_on, passes_answer
from crate_jax.errors import UserError


def _handlers(gr, exhibits, examples):
    """What the page calls: first, pick, show, complete, passes, look, click."""

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
    def passes(path, painting, ratio, seed):
        return passes_answer(exhibits, path, painted_on(painting), ratio, seed)

    @guarded
    def look(path, layer, row, column):
        return layer_answer(exhibits, path, layer, (row, column))

    @guarded
    def show(path):
        picture = enlarged(exhibits[0].read(path))
        return picture, picture, ""

    def click(event: gr.SelectData):  # type: ignore[name-defined]
        height, width = enlarged(exhibits[0].images[0]).shape[:2]
        return event.index[1] / height, event.index[0] / width

    def pick(event: gr.SelectData):  # type: ignore[name-defined]
        return str(examples[event.index][0])

    def first():
        return str(examples[0][0]) if examples else None

    return types.SimpleNamespace(
        complete=complete, passes=passes, look=look, show=show, click=click, pick=pick, first=first
    )


def build(exhibits, examples):
    """The page.

    Args:
        exhibits: one `Exhibit` or two.
        examples: (path, caption) of pictures to choose from; the first is shown when the page opens.

    Returns:
        A `gradio.Blocks`, not launched. Its API has `complete`, `passes` and `layer`, which return HTML.

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
        gr.Markdown(f"# Layer by layer: {names}")
        samples = gr.Gallery(
            [(str(one), name or None) for one, name in examples],
            label="choose a picture",
            columns=8,
            height=150,
            allow_preview=False,
            object_fit="cover",
        )
        path = gr.File(type="filepath", label="or upload one", height=110)  # an image component would open it itself
        gr.Markdown("## Complete it\nPaint over what is to be removed, or leave it to the slider.")
        with gr.Row():
            with gr.Column():
                painting = gr.ImageEditor(
                    type="numpy", label="paint with the brush", height=SHOWN + 40, transforms=(), sources=(),
                    brush=gr.Brush(colors=["#ff3030"], default_size=24, color_mode="fixed"), layers=False,
                )  # fmt: skip
            with gr.Column():
                ratio = gr.Slider(0.1, 0.9, 0.6, step=0.05, label="fraction to remove, if nothing is painted")
                seed = gr.Number(0, label="seed of the random mask", precision=0)
                with gr.Row():
                    button = gr.Button("Complete", variant="primary")
                    several = gr.Button("Complete in passes")
                completions = gr.HTML()
        steps = gr.HTML()
        gr.Markdown("## Look into a layer\nClick a patch and move the slider.")
        depth = max(one.model.depth for one in exhibits)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                query = gr.Image(type="numpy", label="click a patch", interactive=False, height=SHOWN // 4 * 3)
                layer = gr.Slider(0, max(depth - 1, 1), 0, step=1, label="encoder layer")
            with gr.Column(scale=len(exhibits) + 1, min_width=300):
                inside = gr.HTML()
        row, column = gr.Number(0.5, visible=False), gr.Number(0.5, visible=False)
        asked = {"inputs": [path, layer, row, column], "outputs": [inside]}
        mask = [path, painting, ratio, seed]
        page.load(on.first, None, path, api_name=False)
        samples.select(on.pick, None, path, api_name=False)
        shown = path.change(on.show, path, [painting, query, steps], api_name=False)
        shown.success(on.complete, mask, completions, api_name=False)
        shown.success(on.look, **asked, api_name=False)
        button.click(on.complete, mask, completions, api_name="complete")
        ratio.release(on.complete, mask, completions, api_name=False)
        several.click(on.passes, mask, steps, api_name="passes")
        layer.release(on.look, **asked, api_name="layer")
        query.select(on.click, None, [row, column], api_name=False).success(on.look, **asked, api_name=False)
    return page
