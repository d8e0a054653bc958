"""Notebooks as pages of the site: their Markdown, code and committed outputs. Nothing is executed."""

from __future__ import annotations

from pathlib import PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `name.md` and its pictures for each `name.ipynb`."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = PurePosixPath(notebook.src_uri).with_suffix(".md")
        body, resources = MarkdownExporter().from_filename(notebook.abs_src_path)
        files.append(File.generated(config, str(page), content=body))
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, str(page.parent / name), content=picture))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to a notebook lead to its page."""
    return markdown.replace(".ipynb)", ".md)")
