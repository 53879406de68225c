#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <ostream>

#include "outrider/files/atomic_file.h"
#include "support.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using test::check_error;
using test::get;
using test::Names;
using test::put;
using test::TemporaryFolder;

/// Makes writes beyond `bytes` fail, as those on a full disk do.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

auto writes(std::string text) {
  return [text = std::move(text)](std::ostream& out) { out << text; };
}

TEST_CASE("a file is written, and replaced, whole") {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  write_file_atomically(path, writes("first"));
  CHECK(get(path) == "first");
  write_file_atomically(path, [&](std::ostream& out) {
    out << "second";
    out.flush();
    CHECK(get(path) == "first");
    CHECK(folder.names().size() == 2);
  });
  CHECK(get(path) == "second");
  write_file_atomically(path, [](std::ostream&) {});
  CHECK(get(path) == "");
  CHECK(folder.names() == Names{"a"});
}

TEST_CASE("permissions that are asked for do not depend on the umask") {
  const TemporaryFolder folder;
  const auto before = ::umask(0002);
  write_file_atomically(folder / "a", fs::perms{0644}, [&](std::ostream& out) {
    out << "text";
    CHECK(fs::status(folder / folder.names().front()).permissions() == fs::perms{0644});
  });
  ::umask(0077);
  write_file_atomically(folder / "b", fs::perms{0644}, writes("text"));
  ::umask(before);
  CHECK(get(folder / "a") == "text");
  CHECK(fs::status(folder / "a").permissions() == fs::perms{0644});
  CHECK(fs::status(folder / "b").permissions() == fs::perms{0644});
}

TEST_CASE("small and large writes arrive in order") {
  const TemporaryFolder folder;
  std::string expected;
  write_file_atomically(folder / "a", [&](std::ostream& out) {
    for (int i = 0; i < 2000; ++i) {
      const std::string piece =
          std::to_string(i) + std::string(i % 500 == 0 ? 200'000 : i % 97, 'x');
      expected += piece + "\n";
      out << piece;
      out.put('\n');
    }
  });
  CHECK((get(folder / "a") == expected));
}

TEST_CASE("the temporary file is hidden and named after the target") {
  const TemporaryFolder folder;
  write_file_atomically(folder / "model.bin", [&](std::ostream&) {
    const auto names = folder.names();
    REQUIRE(names.size() == 1);
    CHECK(names[0].starts_with(".model.bin.tmp-" + std::to_string(::getpid()) + "-"));
  });
}

TEST_CASE("an exception while writing is passed on and leaves the old file alone") {
  const TemporaryFolder folder;
  put(folder / "a", "old");
  CHECK_THROWS_WITH_AS(write_file_atomically(folder / "a",
                                             [](std::ostream& out) {
                                               out << std::string(1 << 20, 'x');
                                               throw std::runtime_error("stop");
                                             }),
                       "stop", std::runtime_error);
  CHECK(get(folder / "a") == "old");
  CHECK(folder.names() == Names{"a"});
}

TEST_CASE("a write that the system refuses leaves the old file alone") {
  const TemporaryFolder folder;
  put(folder / "a", "old");
  for (const size_t size : {100'000u, 1'000'000u}) {
    const FileSizeLimit limit(50'000);
    check_error(ErrorCode::kWriteFailed, "/a': File too large",
                [&] { write_file_atomically(folder / "a", writes(std::string(size, 'x'))); });
  }
  CHECK(get(folder / "a") == "old");
  CHECK(folder.names() == Names{"a"});
}

TEST_CASE("a stream that was marked as failed is not taken for success") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kWriteFailed, "cannot write", [&] {
    write_file_atomically(folder / "a", [](std::ostream& out) { out.setstate(std::ios::failbit); });
  });
  CHECK(folder.names().empty());
}

TEST_CASE("places that cannot be written to are refused") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kWriteFailed, "/none/a': No such file or directory",
              [&] { write_file_atomically(folder / "none" / "a", writes("x")); });
  put(folder / "file", "");
  check_error(ErrorCode::kWriteFailed, "Not a directory",
              [&] { write_file_atomically(folder / "file" / "a", writes("x")); });
  fs::create_directory(folder / "taken");
  check_error(ErrorCode::kWriteFailed, "/taken': Is a directory",
              [&] { write_file_atomically(folder / "taken", writes("x")); });
  CHECK(folder.names() == Names{"file", "taken"});
}

TEST_CASE("a folder appears with its commit") {
  const TemporaryFolder folder;
  const auto path = folder / "out";
  {
    AtomicDirectory directory(path);
    CHECK(directory.staging().parent_path() == folder.path());
    CHECK(directory.staging().filename().string().starts_with(".out.tmp-"));
    put(directory.staging() / "a", "1");
    fs::create_directory(directory.staging() / "sub");
    put(directory.staging() / "sub" / "b", "2");
    fs::create_symlink("nowhere", directory.staging() / "link");
    CHECK_FALSE(fs::exists(path));
    directory.commit();
    CHECK(get(path / "sub" / "b") == "2");
  }
  CHECK(get(path / "a") == "1");
  CHECK(folder.names() == Names{"out"});
}

TEST_CASE("a folder without commit leaves nothing") {
  const TemporaryFolder folder;
  {
    AtomicDirectory directory(folder / "out");
    put(directory.staging() / "a", "1");
  }
  CHECK(folder.names().empty());
}

TEST_CASE("an empty folder may be replaced, and a trailing slash is ignored") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "out");
  AtomicDirectory directory(folder / "out/");
  put(directory.staging() / "a", "1");
  directory.commit();
  CHECK(get(folder / "out" / "a") == "1");
  CHECK(folder.names() == Names{"out"});
}

TEST_CASE("a full folder is replaced only on request") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "out");
  put(folder / "out" / "old", "1");
  check_error(ErrorCode::kFileExists, "/out' exists and is not empty",
              [&] { AtomicDirectory directory(folder / "out"); });
  CHECK(folder.names() == Names{"out"});
  AtomicDirectory directory(folder / "out", true);
  put(directory.staging() / "new", "2");
  CHECK(get(folder / "out" / "old") == "1");
  directory.commit();
  CHECK(get(folder / "out" / "new") == "2");
  CHECK_FALSE(fs::exists(folder / "out" / "old"));
  CHECK(folder.names() == Names{"out"});
}

TEST_CASE("a folder that was abandoned leaves the one that it would have replaced") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "out");
  put(folder / "out" / "old", "1");
  { AtomicDirectory directory(folder / "out", true); }
  CHECK(get(folder / "out" / "old") == "1");
  CHECK(folder.names() == Names{"out"});
}

TEST_CASE("a folder that somebody filled in the meantime is kept") {
  const TemporaryFolder folder;
  {
    AtomicDirectory directory(folder / "out");
    fs::create_directory(folder / "out");
    put(folder / "out" / "theirs", "1");
    check_error(ErrorCode::kFileExists, "is not empty", [&] { directory.commit(); });
  }
  CHECK(get(folder / "out" / "theirs") == "1");
  CHECK(folder.names() == Names{"out"});
}

TEST_CASE("a link to a folder is replaced itself") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "real");
  put(folder / "real" / "a", "1");
  fs::create_directory_symlink("real", folder / "out");
  AtomicDirectory directory(folder / "out", true);
  put(directory.staging() / "b", "2");
  directory.commit();
  CHECK_FALSE(fs::is_symlink(folder / "out"));
  CHECK(get(folder / "out" / "b") == "2");
  CHECK(get(folder / "real" / "a") == "1");
  CHECK(folder.names() == Names{"out", "real"});
}

TEST_CASE("targets that no folder can take the place of are refused") {
  const TemporaryFolder folder;
  put(folder / "file", "x");
  for (const bool replace : {false, true}) {
    check_error(ErrorCode::kFileExists, "/file' exists and is not a folder",
                [&] { AtomicDirectory directory(folder / "file", replace); });
  }
  check_error(ErrorCode::kFileNotFound, "there is no folder",
              [&] { AtomicDirectory directory(folder / "none" / "out"); });
  for (const char* path : {"", ".", "/", "..", "a/.."}) {
    CAPTURE(path);
    check_error(ErrorCode::kInvalidArgument, "does not name a new folder",
                [&] { AtomicDirectory directory{fs::path(path)}; });
  }
  CHECK(get(folder / "file") == "x");
}

}  // namespace
}  // namespace outrider
