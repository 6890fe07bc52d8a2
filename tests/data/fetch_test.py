"""data/fetch against a server of its own on this machine: tiny sets under the real names."""
import contextlib
import gzip
import hashlib
import http.server
import importlib.machinery
import importlib.util
import io
import lzma
import os
import random
import sys
import tarfile
import tempfile
import threading
import unittest

sys.dont_write_bytecode = True
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "data", "fetch")


def load_script():
    loader = importlib.machinery.SourceFileLoader("fetch", SCRIPT)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("fetch", loader))
    loader.exec_module(module)
    return module


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; keeps the Range headers it was sent; may hang up early or ignore ranges."""
    files, ranges, hang_up_after, knows_ranges = {}, [], None, True

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        body = self.files.get(self.path)
        if body is None:
            return self.send_error(404)
        start = int(wanted[6:-1]) if wanted and self.knows_ranges else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (start, len(body) - 1, len(body)))
        self.end_headers()
        self.wfile.write(body[start:self.hang_up_after])

    def log_message(self, *_):
        pass


class Fetch(unittest.TestCase):
    def setUp(self):
        self.script = load_script()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = os.path.join(temporary.name, "data")
        self.source = os.path.join(temporary.name, "elsewhere")
        os.makedirs(self.source)
        Server.files, Server.ranges, Server.hang_up_after, Server.knows_ranges = {}, [], None, True
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        address = "http://127.0.0.1:%d/" % server.server_port

        self.content, sums = {}, {}
        for name in ("fashion-mnist", "cifar10"):
            for file in self.script.SETS[name]["files"]:
                self.content[file] = bytes(random.Random(file).choices(range(8), k=5000))
                sums[name + "/" + file] = hashlib.sha256(self.content[file]).hexdigest()
        self.script.known_sums = lambda: sums
        self.script.SETS["fashion-mnist"]["base"] = address
        self.script.SETS["cifar10"]["archive"] = address + "cifar.tar.gz"
        for file in self.script.IDX:
            Server.files["/" + file + ".gz"] = gzip.compress(self.content[file])
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for file in self.script.CIFAR:
                member = tarfile.TarInfo("cifar-10-batches-bin/" + file)
                member.size = len(self.content[file])
                tar.addfile(member, io.BytesIO(self.content[file]))
        Server.files["/cifar.tar.gz"] = archive.getvalue()

    def call(self, *arguments):
        """-> exit code and what stderr says"""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = self.script.main([*arguments, "--to", self.root])
        return code, said.getvalue()

    def expect_complete(self, name, files, suffix):
        self.assertEqual(sorted(os.listdir(os.path.join(self.root, name))),
                         sorted(file + suffix for file in files))
        for file in files:
            path = os.path.join(self.root, name, file + suffix)
            with gzip.open(path) if suffix == ".gz" else open(path, "rb") as stream:
                self.assertEqual(stream.read(), self.content[file])

    def part_of(self, file, length):
        os.makedirs(os.path.join(self.root, "fashion-mnist"))
        with open(os.path.join(self.root, "fashion-mnist", file + ".gz.part"), "wb") as part:
            part.write(Server.files["/" + file + ".gz"][:length])

    def test_downloads_each_file_and_then_nothing(self):
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.expect_complete("fashion-mnist", self.script.IDX, ".gz")
        Server.ranges.clear()
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.assertEqual(Server.ranges, [])

    def test_a_set_of_medmnist_is_checked_by_its_md5(self):
        content = bytes(random.Random(3).choices(range(256), k=9000))
        place = os.path.join(self.root, "medmnist", "organmnist3d.npz")
        self.script.SETS["organmnist3d"]["md5"] = hashlib.md5(content).hexdigest()
        self.script.MEDMNIST = self.script.SETS["fashion-mnist"]["base"]
        Server.files["/organmnist3d.npz"] = content[:-1]
        code, said = self.call("organmnist3d")
        self.assertEqual(code, 4)
        self.assertIn("organmnist3d.npz has the MD5 ", said)
        self.assertEqual(os.listdir(os.path.dirname(place)), [])
        Server.files["/organmnist3d.npz"] = content
        with open(place + ".part", "wb") as part:
            part.write(content[:100])
        Server.ranges.clear()
        for ranges in (["bytes=100-"], []):  # the second call finds it
            self.assertEqual(self.call("organmnist3d")[0], 0)
            self.assertEqual(Server.ranges, ranges)
            Server.ranges.clear()
        with open(place, "r+b") as damaged:
            damaged.write(b"x")
        code, said = self.call("organmnist3d", "--from", self.source)
        self.assertEqual((code, "was not found" in said), (2, True))
        with open(os.path.join(self.source, "organmnist3d.npz"), "wb") as other:
            other.write(content)
        self.assertEqual(self.call("organmnist3d", "--from", self.source)[0], 0)
        with open(place, "rb") as found:
            self.assertEqual(found.read(), content)

    def test_unpacks_the_archive_and_removes_it(self):
        self.assertEqual(self.call("cifar10")[0], 0)
        self.expect_complete("cifar10", self.script.CIFAR, "")

    def test_goes_on_where_it_stopped(self):
        self.part_of(self.script.IDX[0], 100)
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.assertEqual(Server.ranges[0], "bytes=100-")
        self.expect_complete("fashion-mnist", self.script.IDX, ".gz")

    def test_starts_over_where_the_server_knows_no_ranges(self):
        Server.knows_ranges = False
        self.part_of(self.script.IDX[0], 100)
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.expect_complete("fashion-mnist", self.script.IDX, ".gz")

    def test_takes_a_part_that_is_already_whole(self):
        self.part_of(self.script.IDX[0], None)
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.expect_complete("fashion-mnist", self.script.IDX, ".gz")

    def test_keeps_the_part_when_the_connection_ends(self):
        Server.hang_up_after = 150
        code, said = self.call("fashion-mnist")
        self.assertEqual(code, 4)
        self.assertIn("the connection ended after 150 of", said)
        Server.hang_up_after = None
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.assertEqual(Server.ranges[1], "bytes=150-")
        self.expect_complete("fashion-mnist", self.script.IDX, ".gz")

    def test_refuses_what_is_damaged_or_different_and_keeps_none_of_it(self):
        file = self.script.IDX[0]
        for body, reason in ((gzip.compress(b"another content"), "has the SHA-256"),
                             (Server.files["/" + file + ".gz"][:-5], "truncated or damaged")):
            Server.files["/" + file + ".gz"] = body
            code, said = self.call("fashion-mnist")
            self.assertEqual(code, 4)
            self.assertIn(reason, said)
            self.assertEqual(os.listdir(os.path.join(self.root, "fashion-mnist")), [])
        Server.files["/cifar.tar.gz"] = Server.files["/cifar.tar.gz"][:2000]
        code, said = self.call("cifar10")
        self.assertEqual(code, 4)
        self.assertIn("truncated or damaged", said)
        self.assertNotIn("cifar.tar.gz.part", os.listdir(os.path.join(self.root, "cifar10")))

    def test_says_what_the_server_answers(self):
        del Server.files["/cifar.tar.gz"]
        code, said = self.call("cifar10")
        self.assertEqual((code, said.count("\n")), (4, 1))
        self.assertIn("the server answers 404", said)

    def test_replaces_a_damaged_file_whatever_its_suffix(self):
        os.makedirs(os.path.join(self.root, "fashion-mnist"))
        with open(os.path.join(self.root, "fashion-mnist", self.script.IDX[1]), "wb") as damaged:
            damaged.write(b"damaged")
        self.assertEqual(self.call("fashion-mnist")[0], 0)
        self.expect_complete("fashion-mnist", self.script.IDX, ".gz")

    def test_copies_plain_gz_and_xz_from_either_layout(self):
        packers = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
        for inner in ("cifar10", ""):
            for suffix, pack in packers.items():
                with tempfile.TemporaryDirectory() as source:
                    os.makedirs(os.path.join(source, inner), exist_ok=True)
                    for file in self.script.CIFAR:
                        with open(os.path.join(source, inner, file + suffix), "wb") as out:
                            out.write(pack(self.content[file]))
                    root = self.root + inner + suffix
                    with contextlib.redirect_stderr(io.StringIO()):
                        self.assertEqual(self.script.main(["cifar10", "--from", source, "--to", root]), 0)
                    self.assertEqual(sorted(os.listdir(os.path.join(root, "cifar10"))),
                                     sorted(file + suffix for file in self.script.CIFAR))
        self.assertEqual(Server.ranges, [])

    def test_names_what_a_folder_lacks(self):
        code, said = self.call("cifar10", "--from", self.source)
        self.assertEqual((code, said.count("\n")), (2, 1))
        self.assertIn("data_batch_1.bin (or .gz, .xz) was not found", said)
        code, said = self.call("cifar10", "--from", self.source + "/nowhere")
        self.assertEqual((code, said.count("\n")), (2, 1))
        self.assertIn("not a folder", said)

    def test_usage_errors_are_one_sentence(self):
        for arguments, part in ((["fashion-mnits"], "did you mean \"fashion-mnist\"?"),
                                (["cifar10", "--form", "x"], "--form"), ([], "NAME")):
            code, said = self.call(*arguments)
            self.assertEqual((code, said.count("\n")), (2, 1), said)
            self.assertIn(part, said)

    def test_a_full_file_system_or_a_forbidden_folder_is_4(self):
        self.root = os.path.join(self.source, "file")
        with open(self.root, "w"):
            pass
        code, said = self.call("cifar10")
        self.assertEqual((code, said.count("\n")), (4, 1))
        self.assertIn(self.root, said)


class Repository(unittest.TestCase):
    def test_mini_mnist_is_cut_from_the_mnist_of_the_repository(self):
        script = load_script()
        with tempfile.TemporaryDirectory() as root:
            os.symlink(os.path.join(script.HERE, "mnist"), os.path.join(root, "mnist"))
            with contextlib.redirect_stderr(io.StringIO()) as said:
                code = script.main(["mnist", "mini/mnist-1k", "--to", root])
            self.assertEqual(code, 0, said.getvalue())
            self.assertEqual(len(os.listdir(os.path.join(root, "mini/mnist-1k"))), 4)
            with contextlib.redirect_stderr(io.StringIO()) as said:
                code = script.main(["mini/fashion-1k", "--to", root])
            self.assertEqual(code, 2)
            self.assertIn("`data/fetch fashion-mnist` first", said.getvalue())


if __name__ == "__main__":
    unittest.main()
