#include <sys/resource.h>

#include <chrono>
#include <cstring>
#include <random>

#include "checkpoint/torch/crc32.h"
#include "fuzz/mutation.h"
#include "outrider/checkpoint/torch_file.h"
#include "support.h"
#include "torch_bytes.h"

namespace outrider {
namespace {

using namespace test;

const std::string kZero(1, '\0');
constexpr auto kInvalid = ErrorCode::kInvalidFile, kUnsafe = ErrorCode::kUnsafeFile;

void refuse(ErrorCode code, const std::string& bytes, std::string_view part) {
  const auto message =
      check_error(code, part, [&] { TorchFile::from_bytes(bytes, "dir/bad.pth"); });
  CHECK(message.find("'dir/bad.pth'") == 0);
  CHECK(message.size() < 1000);
}

void refuse_pickle(ErrorCode code, const std::string& body, std::string_view part) {
  CAPTURE(body.substr(0, 200));
  refuse(code, torch_bytes(p_file(body)), part);
}

std::string repeated(std::string_view text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

std::string global(std::string_view module, std::string_view name) {
  return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}

// What a sanitizer costs.
#ifdef __SANITIZE_ADDRESS__
constexpr int kSlack = 20;
#else
constexpr int kSlack = 1;
#endif

/// Runs something that must be refused within a second and 100 MB.
template <class Run>
void check_bounded(Run run) {
  const auto peak = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const auto before = peak();
  const auto begin = std::chrono::steady_clock::now();
  run();
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(kSlack));
  CHECK(peak() - before < kSlack * 100 * 1024);
}

TEST_CASE("Python objects that tensors do not need are refused by name") {
  const auto call = [](const std::string& what) { return what + "(" + p_text("id") + "tR"; };
  refuse_pickle(kUnsafe, call(global("os", "system")), "'os.system'");
  refuse_pickle(kUnsafe, call(global("builtins", "eval")), "'builtins.eval'");
  refuse_pickle(kUnsafe, call(global("builtins", "getattr")), "'builtins.getattr'");
  refuse_pickle(kUnsafe, global("torch.nn.modules.linear", "Linear"), "Linear'");
  refuse_pickle(kUnsafe, global("torch", "load"), "'torch.load'");
  refuse_pickle(kUnsafe, global("torch", "_utils._rebuild_tensor_v2"), "asks for the Python");
  refuse_pickle(kUnsafe, global("torch._utils", "_rebuild_parameter"), "'torch._utils._rebuild");
  refuse_pickle(kUnsafe, global("os\x1b[2J", "x"), "'os\\x1b[2J.x'");
  refuse_pickle(kUnsafe, global("", ""), "'.'");
  refuse_pickle(kInvalid, global(std::string(300, 'a'), "b"), "name of more than 256 bytes");
  refuse_pickle(kInvalid, "cos", "bytes are needed");
}

TEST_CASE("instructions that build other objects are refused by name") {
  const std::pair<const char*, const char*> refused[] = {{"\x93", "0x93 (STACK_GLOBAL)"},
                                                         {"\x81", "0x81 (NEWOBJ)"},
                                                         {"ios\nsystem\n", "(INST)"},
                                                         {"o", "0x6f (OBJ)"},
                                                         {"Pabc\n", "(PERSID)"},
                                                         {"\x82\x01", "(EXT1)"},
                                                         {"\x95", "0x95 (FRAME)"},
                                                         {"\x94", "(MEMOIZE)"},
                                                         {"0", "0x30 (POP)"},
                                                         {"2", "0x32 (DUP)"},
                                                         {"I5\n", "0x49 (INT)"},
                                                         {"\x8b\x04", "(LONG4)"},
                                                         {"\xff", "instruction 0xff,"},
                                                         {"\x80\x02", "0x80,"}};
  for (const auto& [body, part] : refused) refuse_pickle(kUnsafe, body, part);
}

TEST_CASE("what may be called is called with its own arguments only") {
  const auto ordered = global("collections", "OrderedDict");
  const auto rebuild = global("torch._utils", "_rebuild_tensor_v2");
  refuse_pickle(kUnsafe, ordered + "K\x01\x85R", "OrderedDict with arguments");
  refuse_pickle(kUnsafe, global("torch", "FloatStorage") + ")R", "calls a storage type");
  refuse_pickle(kInvalid, ordered + "]R", "without a tuple");
  refuse_pickle(kInvalid, p_text("os.system") + ")R", "needs a function");
  refuse_pickle(kInvalid, rebuild + ")R", "makes a tensor of 0 values");
  refuse_pickle(kInvalid, rebuild + "(NNNNNNtR", "without storage or offset");
  refuse_pickle(kInvalid, rebuild, "a type in the place of a value");
  refuse_pickle(kUnsafe, ordered + ")R}" + p_text("__class__") + "K\x01sb", "sets attributes");
  refuse_pickle(kUnsafe, "}}" + p_text("_metadata") + "}sb", "sets attributes");
  refuse_pickle(kInvalid,
                "}K\x01"
                "b",
                "needs attributes");
}

TEST_CASE("references to storages have one form") {
  refuse_pickle(kInvalid, p_text("0") + "Q", "needs a reference to a storage");
  refuse_pickle(kInvalid, "(tQ", "malformed reference");
  refuse_pickle(kInvalid, "(" + p_text("storage") + "NNNNtQ", "malformed reference");
  refuse_pickle(kInvalid,
                "(" + p_text("module") + global("torch", "FloatStorage") + p_text("0") +
                    p_text("cpu") + "K\x08tQ",
                "malformed reference");
  refuse_pickle(kInvalid,
                "(" + p_text("storage") + global("collections", "OrderedDict") + p_text("0") +
                    p_text("cpu") + "K\x08tQ",
                "malformed reference");
  refuse_pickle(kInvalid, p_storage("FloatStorage", "0", 8), "a storage that is no tensor");
}

TEST_CASE("a tensor lies inside its storage") {
  const auto tensor = [](int64_t offset, std::vector<int64_t> shape, std::vector<int64_t> strides,
                         int64_t count = 8, const char* key = "0") {
    return p_tensor(p_storage("FloatStorage", key, count), offset, shape, strides);
  };
  const char* const unfit = "does not fit its storage '0' of 8 elements";
  refuse_pickle(kInvalid, tensor(0, {9}, {1}), unfit);
  refuse_pickle(kInvalid, tensor(1, {8}, {1}), unfit);
  refuse_pickle(kInvalid, tensor(-1, {2}, {1}), unfit);
  refuse_pickle(kInvalid, tensor(9, {0}, {1}), unfit);
  refuse_pickle(kInvalid, tensor(0, {2, 2}, {8, 1}), unfit);
  refuse_pickle(kInvalid, tensor(0, {-2}, {1}), unfit);
  refuse_pickle(kInvalid, tensor(7, {2}, {-1}), unfit);
  refuse_pickle(kInvalid, tensor(0, {2}, {1, 1}), unfit);
  refuse_pickle(kInvalid, tensor(0, {int64_t{1} << 40}, {0}), unfit);
  refuse_pickle(kInvalid, tensor(0, {INT64_MAX, INT64_MAX}, {1, 1}), unfit);
  refuse_pickle(kInvalid, tensor(0, {3}, {INT64_MAX}), unfit);
  refuse_pickle(kInvalid, tensor(0, {0, INT64_MAX, INT64_MAX}, {1, 1, 1}), unfit);
  refuse_pickle(kInvalid, tensor(0, {8}, {1}, 9), "the storage '0' has 32 bytes, not 9 elements");
  refuse_pickle(kInvalid, tensor(0, {}, {}, -1), "not -1 elements");
  refuse_pickle(kInvalid, tensor(0, {8}, {1}, 8, "1"), "no zip entry 't/data/1'");
  refuse_pickle(kInvalid, tensor(0, {8}, {1}, 8, "../data.pkl"), "no zip entry");
  refuse_pickle(kInvalid, p_tensor(p_storage("LongStorage", "0", 8), 0, {8}, {1}), "of I64");
  refuse_pickle(kInvalid, tensor(0, std::vector<int64_t>(65, 1), {}), "at most 64 sizes");
}

TEST_CASE("a damaged pickle is refused where it breaks") {
  refuse_pickle(kInvalid, "", "does not end with one value");
  refuse_pickle(kInvalid, "NN", "does not end with one value");
  refuse_pickle(kInvalid, "N(", "does not end with one value");
  refuse_pickle(kInvalid, "N.N", "goes on after its end");
  refuse_pickle(kInvalid, "a", "takes more values than it has");
  refuse_pickle(kInvalid, "](a", "takes more values than it has");
  refuse_pickle(kInvalid, "\x86", "takes more values than it has");
  refuse_pickle(kInvalid, "](K\x01\x86", "takes more values than it has");
  refuse_pickle(kInvalid, "Ne", "closes a mark that is not there");
  refuse_pickle(kInvalid, "}(NNe", "container of another kind");
  refuse_pickle(kInvalid, "](NNu", "container of another kind");
  refuse_pickle(kInvalid, ")Na", "container of another kind");
  refuse_pickle(kInvalid, "N(Ne", "adds to what is no container");
  refuse_pickle(kInvalid, "(Ne", "adds to what is no container");
  refuse_pickle(kInvalid, "}(Nu", "a key without a value");
  refuse_pickle(kInvalid, "}K\x01Ns", "keys are not all texts");
  refuse_pickle(kInvalid, "}" + repeated(p_text("a") + "Ns", 2), "the key 'a' twice");
  refuse_pickle(kInvalid, "X\xff\xff\xff\xff", "4294967295 bytes are needed");
  refuse_pickle(kInvalid, p_text("\xc3\x28"), "not UTF-8");
  refuse_pickle(kInvalid,
                "\x8a\x09"
                "123456789",
                "more than 64 bits");
  refuse_pickle(kInvalid, std::string("G\x7f\xf0\0\0\0\0\0\0", 9), "not finite");
  refuse(kInvalid, torch_bytes(""), "bytes are needed");
  refuse(kInvalid, torch_bytes("N."), "does not begin with its protocol");
  refuse(kInvalid, torch_bytes("\x80\x04N."), "has protocol 4");
  refuse(kInvalid, torch_bytes("\x80\x02N"), "bytes are needed");
}

TEST_CASE("no container can reach itself, and no memory is taken for numbers of memories") {
  refuse_pickle(kInvalid, "]q" + kZero + "h" + kZero + "a", "referred to already");
  refuse_pickle(kInvalid, "}q" + kZero + p_text("a") + "h" + kZero + "s", "referred to already");
  refuse_pickle(kInvalid, "Nr\xff\xff\xff\x7f", "remembers value 0 as number 2147483647");
  refuse_pickle(kInvalid, "Nq\x01", "remembers value 0 as number 1");
  refuse_pickle(kInvalid, "q" + kZero, "remembers nothing");
  refuse_pickle(kInvalid, "h" + kZero, "recalls value 0");
  refuse_pickle(kInvalid, "j\xff\xff\xff\xff", "recalls value 4294967295");
}

// Each value refers to the one before it twice.
std::string laughter(int levels) {
  std::string body = "]q" + kZero;
  for (int i = 0; i < levels; ++i) {
    const std::string before(1, static_cast<char>(i)), next(1, static_cast<char>(i + 1));
    body += "](h" + before + "h" + before + "eq" + next;
  }
  return "(" + body + "t";
}

TEST_CASE("values that unfold without end are refused at once") {
  check_bounded([] {
    refuse_pickle(kInvalid, laughter(40), "unfolds to more than");
    refuse_pickle(kInvalid, repeated("]", 30000) + repeated("a", 29999), "nested deeper than 64");
    refuse_pickle(kInvalid, repeated("(", 2'000'000), "opens more than 65536 marks");
    refuse_pickle(kInvalid, repeated("N", 2'000'000), "stacks more than 65536 values");
    refuse_pickle(kInvalid, "](" + repeated(repeated("N", 1000) + "e(", 2000), "more than 1048576");
    refuse_pickle(kInvalid, "](" + repeated(repeated("]", 1000) + "e(", 2000), "262144 containers");
    const auto word = "](" + p_text(std::string(1 << 20, 'x')) + "q" + kZero;
    refuse_pickle(kInvalid, word + repeated("h" + kZero, 1000) + "e", "unfolds to more than");
    refuse(kInvalid, torch_bytes(std::string((16 << 20) + 1, 'N')),
           "at most 16777216 are accepted");
  });
}

TEST_CASE("tensors are charged by their dimensions") {
  const auto shape = p_ints(std::vector<int64_t>(64, 1));
  const std::string one = "\x01", two = "\x02", three = "\x03", four = "\x04";
  const std::string setup = "(" + global("torch._utils", "_rebuild_tensor_v2") + "q" + kZero + "(" +
                            p_storage("FloatStorage", "0", 8) + "K" + kZero + shape + shape +
                            "NNtq" + one + "t](";
  check_bounded([&] {
    refuse_pickle(kInvalid, setup + repeated("h" + kZero + "h" + one + "R", 60000),
                  "1048576 values");
  });
}

TEST_CASE("a file cut at any byte is refused, and so is any longer one") {
  const auto whole = torch_bytes(p_file("K\x01"));
  for (size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    refuse(kInvalid, whole.substr(0, size), "does not end with the directory");
  }
  refuse(kInvalid, whole + "x", "does not end with the directory");
  refuse(kInvalid, "x" + whole, "is not where it should be");
}

TEST_CASE("zip directories that do not describe the file are refused") {
  const auto items = torch_items(p_file("N"));
  const auto with = [&](const ZipEnd& end) { return zip_bytes(items, end); };
  refuse(kInvalid, with({.comment = "hello"}), "does not end with the directory");
  refuse(kInvalid, with({.count = 0xFFFF, .count64 = UINT64_MAX}), "18446744073709551615 zip");
  refuse(kInvalid, with({.count = 5}), "bytes are needed");
  refuse(kInvalid, with({.count = 3}), "longer than its entries");
  refuse(kInvalid, with({.count64 = 3}), "two zip directories disagree");
  refuse(kInvalid, with({.begin = 3}), "is not where it should be");
  refuse(kInvalid, with({.size = 3}), "is not where it should be");
  refuse(kInvalid, with({.zip64 = false, .begin = 0xFFFFFFFF}), "is not where it should be");
  refuse(kInvalid, with({.record = 0}), "zip64 record is not where");
  refuse(kInvalid, with({.record = UINT64_MAX}), "zip64 record is not where");
  refuse(kInvalid, with({.disk = 1}), "divided zip file");
  refuse(kInvalid, with({.before_end = std::string(20, 'x')}), "is not where it should be");
  refuse(kInvalid, zip_bytes({}), "no zip entries");
  refuse(kInvalid, "\x80\x02\x8a\x0al\xfc\x9c" + std::string(100, 'x'), "before 1.6");
}

/// The file with one entry's headers changed.
std::string with_entry(const std::function<void(ZipItem&)>& change, size_t which = 2) {
  auto items = torch_items(p_file(p_tensor(p_storage("FloatStorage", "0", 8), 0, {8}, {1})));
  change(items[which]);
  return zip_bytes(items);
}

TEST_CASE("zip entries that are not what torch writes are refused") {
  using Item = ZipItem;
  const auto refuse_entry = [](const std::function<void(Item&)>& change, std::string_view part) {
    refuse(kInvalid, with_entry(change), part);
  };
  refuse_entry([](Item& i) { i.crc = 1; }, "'t/data/0' does not match its checksum");
  refuse_entry([](Item& i) { i.data[5] ^= 1, i.crc = 0x12345678; }, "checksum");
  refuse_entry([](Item& i) { i.method = 8; }, "is compressed");
  refuse_entry([](Item& i) { i.method = 8, i.packed = 32, i.size = 1u << 31; }, "is compressed");
  refuse_entry([](Item& i) { i.packed = 31; }, "is compressed");
  refuse_entry([](Item& i) { i.flags |= 1; }, "is encrypted");
  refuse_entry([](Item& i) { i.flags |= 0x40; }, "has the flags 0x0848");
  refuse_entry([](Item& i) { i.size = 0xFFFFFFF0; }, "reaches into the zip directory");
  refuse_entry([](Item& i) { i.size = 0xFFFFFFFF; }, "reaches into the zip directory");
  refuse_entry([](Item& i) { i.offset = 0xFFFFFFF0; }, "begins beyond the data");
  refuse_entry([](Item& i) { i.offset = 1; }, "has no header before its data");
  refuse_entry([](Item& i) { i.offset = 0; }, "is described differently before its data");
  refuse_entry([](Item& i) { i.local_name = "t/data/1"; }, "is described differently");
  refuse_entry([](Item& i) { i.name = "t/data.pkl"; }, "occurs twice");
  refuse_entry([](Item& i) { i.name = "u/data/0"; }, "stands apart");
  refuse_entry([](Item& i) { i.extra = "\x01"; }, "bytes are needed");
  refuse_entry([](Item& i) { i.extra = std::string("\x01\0\xff\0", 4); }, "bytes are needed");
  refuse_entry([](Item& i) { i.size = 0xFFFFFFFF, i.extra = std::string("\x01\0\x04\0abcd", 8); },
               "bytes are needed");
  for (const char* name : {"../evil", "/etc/passwd", "t/../../x", "t/./x", "t//x", "t\\x", ""}) {
    CAPTURE(name);
    refuse_entry([&](Item& i) { i.name = name; }, "leads out of the archive");
  }
  refuse_entry([](Item& i) { i.name = std::string("t/\0x", 4); }, "leads out of the archive");
  refuse_entry([](Item& i) { i.name = "t/" + std::string(2000, 'x'); }, "leads out of the archive");
  refuse(kInvalid, with_entry([](Item& i) { i.name = "t/data.pickle"; }, 0), "entry 't/data.pkl'");
  refuse(ErrorCode::kUnsupported, with_entry([](Item& i) { i.data = "big"; }, 1), "order is 'big'");
}

TEST_CASE("zip entries that share bytes are refused") {
  auto items = torch_items(p_file("N"));
  items[2].size = 60;  // over the header of the next one
  refuse(kInvalid, zip_bytes(items), "'t/version' overlaps 't/data/0'");
}

TEST_CASE("a huge number of zip entries is refused at once") {
  std::vector<ZipItem> items(140'000, {"t/x", ""});
  const auto bytes = zip_bytes(items);
  check_bounded([&] { refuse(kInvalid, bytes, "140000 zip entries; at most 131072"); });
}

/// A file with one entry changed, most often the pickle, and its checksum made right again.
std::string damaged(std::vector<ZipItem> items, std::mt19937& random) {
  auto& target = random() % 4 == 0 ? items[random() % items.size()].data : items[0].data;
  target = fuzz::mutated(std::move(target), "()]}tue.hqRQbcXK\x86\x8a\xff", random);
  auto bytes = zip_bytes(items);
  if (random() % 4 == 0) bytes[random() % bytes.size()] = static_cast<char>(random());
  return bytes;
}

TEST_CASE("mutations of real files are read or refused, never more") {
  const auto storage = p_storage("FloatStorage", "0", 8);
  const std::string state =
      get(fs::path(OUTRIDER_TEST_FIXTURES) / "modelopt/eagle3_d2t/modelopt_state.pth");
  const auto begin = state.find("\x80\x02"), end = state.find("PK\x07\x08");
  const std::string pickles[] = {state.substr(begin, end - begin),
                                 p_file("}(" + p_text("a") + p_tensor(storage, 2, {2, 3}, {3, 1}) +
                                        p_text("b") + p_tensor(storage, 0, {8}, {1}) + "u"),
                                 p_file(laughter(9))};
  std::mt19937 random(7);
  size_t read = 0, refused = 0;
  check_bounded([&] {
    for (int i = 0; i < 6000; ++i) {
      const auto bytes = damaged(torch_items(pickles[i % 3]), random);
      try {
        const auto file = TorchFile::from_bytes(bytes, "mutated");
        file->contents().dump();
        ++read;
      } catch (const Error& error) {
        REQUIRE(std::string(error.what()).find("mutated") != std::string::npos);
        ++refused;
      }
    }
  });
  CHECK(read > 500);
  CHECK(refused > 2000);
}

}  // namespace
}  // namespace outrider
