"""The page's type and colours, as far as gradio's own components need them; the rest is assets/page/board.css."""

import gradio as gr


def theme() -> gr.themes.Base:
    sans = [gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"]
    mono = [gr.themes.utils.fonts.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"]
    return gr.themes.Base(font=sans, font_mono=mono, radius_size="md", text_size="md").set(
        body_background_fill="#f7f6f3",
        body_background_fill_dark="#121417",
        body_text_color="#1d2127",
        body_text_color_dark="#e9e6df",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a1d22",
        block_border_color="#dedbd4",
        block_border_color_dark="#33383f",
        block_label_text_color="#596069",
        block_label_text_color_dark="#a6abb3",
        block_title_text_color="#1d2127",
        block_title_text_color_dark="#e9e6df",
        block_info_text_color="#596069",
        block_info_text_color_dark="#a6abb3",
        input_background_fill="#ffffff",
        input_background_fill_dark="#14171b",
        block_shadow="none",
        input_shadow="none",
        input_border_color="#dedbd4",
        input_border_color_dark="#33383f",
        input_border_width="1px",
        color_accent="#0a6ab5",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_hover="transparent",
        checkbox_label_background_fill_hover_dark="transparent",
        checkbox_label_background_fill_selected="transparent",
        checkbox_label_background_fill_selected_dark="transparent",
        checkbox_label_border_color="#dedbd4",
        checkbox_label_border_color_dark="#33383f",
        checkbox_label_border_width="1px",
        checkbox_background_color_selected="#0a6ab5",
        checkbox_background_color_selected_dark="#2a7fc4",
        slider_color="#0a6ab5",
        slider_color_dark="#5cb0ee",
    )
