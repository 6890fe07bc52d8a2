"""Figures and reports of `layerwise` runs, finished or not, from the notebook beside this file.

    python notebooks/render.py [--notebook NAME] [--out OUT] RUNFOLDER...

The notebook is NAME.ipynb beside this file, layerwise.ipynb without. Each RUNFOLDER gets figure.png and report.html about itself; OUT, if given, gets those of all of
them together, one column per task. Exit codes: 0 done, 1 the notebook failed, 2 wrong use, 4 a
damaged run file or a folder that cannot be written.
"""

import argparse
import base64
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURE_TAG = "figure"  # the cell whose picture becomes figure.png
TIMEOUT_SECONDS = 600  # of a cell, and of the kernel's start


class RenderError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def execute(notebook, folders, scratch):
    """The executed notebook about these run folders, in a kernel of its own."""
    import nbformat
    from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor
    from traitlets.config import Config

    os.environ["EVARISTE_RUN"] = os.pathsep.join(str(folder) for folder in folders)
    config = Config()
    config.KernelManager.transport = "ipc"  # sockets of the file system: no port can be taken
    config.KernelManager.ip = str(scratch / f"kernel{len(os.listdir(scratch))}")
    executor = ExecutePreprocessor(config=config, kernel_name="python3", timeout=TIMEOUT_SECONDS,
                                   startup_timeout=TIMEOUT_SECONDS)
    try:
        return executor.preprocess(nbformat.read(notebook, as_version=4),
                                   {"metadata": {"path": str(HERE)}})[0]
    except CellExecutionError as error:
        raise RenderError(1, f"{notebook}: {error.ename}: {error.evalue}") from error
    except (RuntimeError, TimeoutError) as error:  # the kernel died, does not start or answer
        raise RenderError(1, f"{notebook}: {str(error).splitlines()[0]}") from error


def picture(executed):
    """Bytes of the PNG that the figure's cell shows."""
    for cell in executed.cells:
        if FIGURE_TAG in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
    raise RenderError(1, f"no cell tagged \"{FIGURE_TAG}\" shows a picture")


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


def render(notebook, out, folders, scratch):
    from layerwise_runs import RunError, read_run

    for folder in folders:
        try:
            read_run(folder)
        except RunError as error:
            raise RenderError(4 if (folder / "run.h5").is_file() else 2, str(error)) from error
    targets = [(folder, [folder]) for folder in folders]
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RenderError(4, f"{out}: cannot be made: {error.strerror}") from error
        targets.append((out, folders))
    for target, named in targets:
        executed = execute(notebook, named, scratch)
        title = f"{notebook.stem}: " + ", ".join(folder.name for folder in named)
        write(target / "figure.png", picture(executed))
        write(target / "report.html", page(executed, title).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebook", default="layerwise", metavar="NAME")
    parser.add_argument("--out", type=lambda name: Path(name).resolve(),
                        help="folder of the common figure")
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
            render(HERE / f"{options.notebook}.ipynb", options.out, folders, Path(scratch))
        except RenderError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.code
        except ImportError as error:
            print(f"error: {error}; tools/setup installs what the reports need", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
