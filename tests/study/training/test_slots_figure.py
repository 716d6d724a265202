"""The picture of how a run used the slots of its memories."""

from hdvae_platform.training.slots_figure import draw, slot_use


def reported(step, memory, share):
    low = {"valid/perplexity_low": 90.0 * share, "valid/coverage_low": share - 0.1}
    high = {"valid/perplexity_high": 110.0 * share, "valid/coverage_high": share + 0.1}
    metrics = {"train/slots_used": 100.0 * share, "valid/perplexity": 100.0 * share, "valid/coverage": share}
    metrics |= {"train/dead_slots": 5.0} if step > 10 else {}
    return {f"{name}/{memory}": value for name, value in (metrics | low | high).items()}


HISTORY = {step: reported(step, "layer_1", 0.5) | reported(step, "layer_2", 0.7) for step in (10, 20, 30)}


def test_every_panel_has_names_and_numbers_on_its_axes():
    figure = draw(HISTORY)
    figure.draw_without_rendering()
    grid = [figure.axes[row * 2 : row * 2 + 2] for row in range(4)]
    names = ["slots used so far", "dead slots", "perplexity", "coverage"]
    assert [axes.get_ylabel() for axes, _ in grid] == names
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["layer_1", "layer_2"]
    assert {axes.get_xlabel() for axes in grid[-1]} == {"training step"}
    for axes in figure.axes:
        assert len([tick for tick in axes.get_yticklabels() if tick.get_text()]) >= 3
        assert axes.get_ylim()[0] == 0
    assert list(grid[1][0].lines[0].get_xdata()) == [20, 30], "dead slots are not known before"
    shaded = grid[2][0].collections[0].get_paths()[0].vertices[:, 1]
    assert (shaded.min(), shaded.max()) == (45, 55)
    assert slot_use(HISTORY).startswith(b"\x89PNG")


def test_dead_slots_that_are_not_known_yet_are_not_none():
    figure = draw({10: reported(10, "layer_1", 0.5)})
    assert [text.get_text() for text in figure.axes[1].texts] == ["not known yet"]
