"""How the page looks: a theme with colors and system fonts of its own; the rest is in ``style.css``."""

from __future__ import annotations

import gradio as gr

_PINE = gr.themes.Color(
    c50="#eef5f2",
    c100="#d8e9e2",
    c200="#b5d4c8",
    c300="#88b9a9",
    c400="#559a89",
    c500="#2f7f79",
    c600="#1f6a66",
    c700="#175653",
    c800="#104442",
    c900="#0b3335",
    c950="#062325",
    name="pine",
)
_STONE = gr.themes.Color(
    c50="#faf8f3",
    c100="#f3f0e8",
    c200="#e6e2d7",
    c300="#d0ccc0",
    c400="#a3a298",
    c500="#747870",
    c600="#565d57",
    c700="#3d4541",
    c800="#232c29",
    c900="#18201e",
    c950="#101715",
    name="stone",
)
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """Pine on paper, in light and dark; nothing is fetched."""
    theme = gr.themes.Base(
        primary_hue=_PINE,
        secondary_hue=_PINE,
        neutral_hue=_STONE,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_FONTS,
        font_mono=_MONO,
    )
    return theme.set(
        body_background_fill="#faf8f3",
        body_background_fill_dark="#101715",
        body_text_color="#1c2523",
        body_text_color_dark="#e8ece8",
        body_text_color_subdued="#565d57",
        body_text_color_subdued_dark="#a9b3ad",
        block_background_fill="#ffffff",
        block_background_fill_dark="#18201e",
        block_border_color="#e0dccf",
        block_border_color_dark="#2d3835",
        block_label_text_color="#3d4541",
        block_label_text_color_dark="#c3ccc6",
        block_title_text_color="#1c2523",
        block_title_text_color_dark="#e8ece8",
        block_title_text_weight="600",
        block_info_text_color="#565d57",
        block_info_text_color_dark="#a9b3ad",
        input_background_fill="#fffdf9",
        input_background_fill_dark="#131a18",
        input_border_width="1px",
        input_border_color="#cfcabb",
        input_border_color_dark="#3a4743",
        input_placeholder_color="#747870",
        input_placeholder_color_dark="#8b958f",
        button_border_width="1px",
        button_primary_border_color="#1f6a66",
        button_primary_border_color_dark="#2f7f79",
        button_primary_background_fill="#1f6a66",
        button_primary_background_fill_hover="#175653",
        button_primary_background_fill_dark="#2f7f79",
        button_primary_background_fill_hover_dark="#3b8f88",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1e2725",
        button_secondary_border_color="#cfcabb",
        button_secondary_border_color_dark="#3a4743",
        link_text_color="#175653",
        link_text_color_dark="#88c9b8",
        link_text_color_hover="#0b3335",
        link_text_color_hover_dark="#b5e0d3",
        link_text_color_visited="#175653",
        link_text_color_visited_dark="#88c9b8",
    )
