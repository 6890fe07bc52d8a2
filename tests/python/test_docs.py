"""What the documentation points to is there: files of links, and the tests that docs/differences.md
names."""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.md"),
         *ROOT.glob("bench/results/*.md"), *ROOT.glob("results/*/README.md")]


class Docs(unittest.TestCase):
    def test_links_lead_to_files(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
                if "://" not in target:
                    with self.subTest(f"{page.relative_to(ROOT)}: {target}"):
                        self.assertTrue((page.parent / target).exists())

    def test_every_difference_has_its_test(self):
        written = "".join(file.read_text("utf-8") for file in ROOT.glob("tests/*/*_test.cpp"))
        known = set(re.findall(r"TEST_CASE\(\s*\"((?:[^\"\\]|\\.)*)\"", written))
        rows = [line for line in (ROOT / "docs/differences.md").read_text("utf-8").splitlines()
                if line.startswith("| ") and not line.startswith(("| there", "| ---"))]
        self.assertGreater(len(rows), 15)
        for row in rows:
            cell = row.strip("| ").rsplit(" | ", 1)[1]
            names = [name for name in known if name in cell]
            covered = sum(len(name) for name in names)
            with self.subTest(cell):
                self.assertTrue(names)
                # Nothing but names, quotes and commas.
                self.assertLessEqual(len(cell) - covered, 4 * len(names))


if __name__ == "__main__":
    unittest.main()
