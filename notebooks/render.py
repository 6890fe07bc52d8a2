"""Figures and reports of `layerwise` runs, finished or not, from the notebook beside this file.

    python notebooks/render.py --out OUT RUNFOLDER...

Each RUNFOLDER gets figure.png and report.html about itself; OUT gets those of all of them together,
one column per task. Exit codes: 0 done, 1 the notebook failed, 2 wrong use, 4 a damaged run file or
a folder that cannot be written.
"""

import argparse
import base64
import copy
import os
import sys
import tempfile
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parent / "layerwise.ipynb"
FIGURE_TAG = "figure"  # the cell whose picture becomes figure.png
CELL_TIMEOUT_SECONDS = 600


class RenderError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Notebook:
    """Executes the notebook, one kernel for all reports: imports cost more than the plots."""

    def __init__(self, scratch):
        import nbformat
        from jupyter_client.manager import KernelManager

        self.source = nbformat.read(NOTEBOOK, as_version=4)
        # Sockets of the file system: no port can be taken.
        self.manager = KernelManager(kernel_name="python3", transport="ipc",
                                     ip=str(scratch / "kernel"))
        self.manager.start_kernel(cwd=str(NOTEBOOK.parent))
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=CELL_TIMEOUT_SECONDS)
        except RuntimeError as error:
            self.__exit__()
            raise RenderError(1, f"{NOTEBOOK}: its kernel does not start: {error}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def execute(self, folders):
        """The executed notebook about these run folders."""
        from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor

        named = os.pathsep.join(str(folder) for folder in folders)
        # Nothing of the report before may be left: all names go, as in a fresh kernel.
        self.client.execute_interactive(
            f"%reset -sf\nimport os\nos.environ['EVARISTE_RUN'] = {named!r}\ndel os",
            timeout=CELL_TIMEOUT_SECONDS, store_history=False,
            output_hook=lambda message: None)
        executor = ExecutePreprocessor(timeout=CELL_TIMEOUT_SECONDS)
        try:
            resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
            return executor.preprocess(copy.deepcopy(self.source), resources, km=self.manager)[0]
        except CellExecutionError as error:
            raise RenderError(1, f"{NOTEBOOK}: {error.ename}: {error.evalue}") from error


def picture(executed):
    """Bytes of the PNG that the figure's cell shows."""
    for cell in executed.cells:
        if FIGURE_TAG in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
    raise RenderError(1, f"{NOTEBOOK}: no cell tagged \"{FIGURE_TAG}\" shows a picture")


def page(executed, title):
    """The report as one HTML file that needs nothing else, code where it is meant to be read."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    exporter = HTMLExporter(config=config, template_name="lab", exclude_input_prompt=True,
                            exclude_output_prompt=True, require_js_url="", mathjax_url="",
                            mermaid_js_url="")
    executed.metadata["title"] = title
    return exporter.from_notebook_node(executed)[0]


def write(path, content):
    """Whole or not at all: a reader never sees half a report."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RenderError(4, f"{path}: cannot be written: {error.strerror}") from error


def render(out, folders, scratch):
    from layerwise_runs import RunError, read_run

    for folder in folders:
        try:
            read_run(folder)
        except RunError as error:
            raise RenderError(4 if (folder / "run.h5").is_file() else 2, str(error)) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RenderError(4, f"{out}: cannot be made: {error.strerror}") from error
    with Notebook(scratch) as notebook:
        for target, named in [(folder, [folder]) for folder in folders] + [(out, folders)]:
            executed = notebook.execute(named)
            title = "layerwise: " + ", ".join(folder.name for folder in named)
            write(target / "figure.png", picture(executed))
            write(target / "report.html", page(executed, title).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the common figure")
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUNFOLDER")
    options = parser.parse_args()
    folders = list(dict.fromkeys(folder.resolve() for folder in options.folders))
    # The kernel's files stay out of the user's home, and the environment's kernel comes first. The
    # name of a socket may have about 100 characters: /tmp rather than a long TMPDIR.
    with tempfile.TemporaryDirectory(prefix="evariste-", dir="/tmp") as scratch:
        os.environ.update(JUPYTER_RUNTIME_DIR=scratch, IPYTHONDIR=scratch, JUPYTER_NO_CONFIG="1",
                          JUPYTER_PREFER_ENV_PATH="1", JUPYTER_PLATFORM_DIRS="1",
                          PYDEVD_DISABLE_FILE_VALIDATION="1")
        try:
            render(options.out.resolve(), folders, Path(scratch))
        except RenderError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.code
        except ImportError as error:
            print(f"error: {error}; tools/setup installs what the reports need", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
