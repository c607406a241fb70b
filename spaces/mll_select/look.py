"""The theme of the page: colors and system fonts; the rest is in ``style.css``. Nothing is downloaded."""

from __future__ import annotations

import gradio as gr

# From light to dark.
_PINE = gr.themes.Color(
    "#eef5f2", "#d8e9e2", "#b5d4c8", "#88b9a9", "#559a89", "#2f7f79",
    "#1f6a66", "#175653", "#104442", "#0b3335", "#062325",
    name="pine",
)  # fmt: skip
_STONE = gr.themes.Color(
    "#faf8f3", "#f3f0e8", "#e6e2d7", "#d0ccc0", "#a3a298", "#747870",
    "#565d57", "#3d4541", "#232c29", "#18201e", "#101715",
    name="stone",
)  # fmt: skip
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_COLORS = {  # light, dark
    "body_background_fill": ("#faf8f3", "#101715"),
    "body_text_color": ("#1c2523", "#e8ece8"),
    "body_text_color_subdued": ("#565d57", "#a9b3ad"),
    "block_background_fill": ("#ffffff", "#18201e"),
    "block_border_color": ("#e0dccf", "#2d3835"),
    "block_label_text_color": ("#3d4541", "#c3ccc6"),
    "block_title_text_color": ("#1c2523", "#e8ece8"),
    "block_info_text_color": ("#565d57", "#a9b3ad"),
    "input_background_fill": ("#fffdf9", "#131a18"),
    "input_border_color": ("#cfcabb", "#3a4743"),
    "input_placeholder_color": ("#747870", "#8b958f"),
    "button_primary_border_color": ("#1f6a66", "#2f7f79"),
    "button_primary_background_fill": ("#1f6a66", "#2f7f79"),
    "button_primary_background_fill_hover": ("#175653", "#276b66"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#ffffff", "#1e2725"),
    "button_secondary_border_color": ("#cfcabb", "#3a4743"),
    "link_text_color": ("#175653", "#88c9b8"),
    "link_text_color_hover": ("#0b3335", "#b5e0d3"),
    "link_text_color_visited": ("#175653", "#88c9b8"),
}


def make_theme() -> gr.themes.Base:
    """The theme, in light and dark."""
    theme = gr.themes.Base(
        primary_hue=_PINE,
        secondary_hue=_PINE,
        neutral_hue=_STONE,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_FONTS,
        font_mono=_MONO,
    )
    colors = {name: light for name, (light, _) in _COLORS.items()}
    dark = {f"{name}_dark": color for name, (_, color) in _COLORS.items()}
    return theme.set(
        **colors, **dark, block_title_text_weight="600", input_border_width="1px", button_border_width="1px"
    )
