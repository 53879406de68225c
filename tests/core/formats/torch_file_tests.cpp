#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <sstream>

#include "checkpoint/torch/torch_state_dict.h"
#include "checkpoint/torch/zip_writer.h"
#include "outrider/checkpoint/torch_file.h"
#include "outrider/files/json_file.h"
#include "support.h"
#include "torch_bytes.h"

namespace outrider::torch_file_tests {
namespace {

using namespace test;

const fs::path kFixtures = OUTRIDER_TEST_FIXTURES;

std::shared_ptr<const TorchFile> parse(const std::string& bytes) {
  return TorchFile::from_bytes(bytes, "t.pth");
}

Json contents(const std::string& body) { return parse(torch_bytes(p_file(body)))->contents(); }

std::vector<float> floats(const TorchTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / 4);
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

bool is_pair(const Json& list) { return list.size() == 2 && list[0].is_string(); }

TEST_CASE("a state that ModelOpt wrote is read, integers and floats apart") {
  const auto file = TorchFile::open(kFixtures / "modelopt/eagle3_d2t/modelopt_state.pth");
  const auto& state = file->contents();
  CHECK(state.at("modelopt_version") == "0.47.0");
  const auto& mode = state.at("modelopt_state_dict").at(0);
  CHECK(mode.at(0) == "eagle");
  const auto& config = mode.at(1).at("config");
  CHECK(config.at("eagle_loss_decay_factor").is_number_float());
  CHECK(config.at("eagle_export_rope_scaling").at("factor").dump() == "32.0");
  CHECK(config.at("eagle_architecture_config").at("draft_vocab_size").dump() == "28");
  CHECK(config.at("eagle_base_lora_target_modules").is_null());
  CHECK(config.at("eagle_offline") == false);
  CHECK(mode.at(1).at("metadata") == Json::object());
}

TEST_CASE("a checkpoint of mto.save has its state and its tensors") {
  const auto file = TorchFile::open(kFixtures / "modelopt/medusa_h2_l1/mto_save_bfloat16.pth");
  CHECK(file->contents().at("modelopt_state").at("modelopt_version") == "0.47.0");
  const auto& tensors = file->contents().at("model_state_dict");
  CHECK(tensors.size() == 27);
  const auto* bias = file->tensor(tensors.at("medusa_heads.1.0.linear.bias"));
  REQUIRE(bias != nullptr);
  CHECK(bias->dtype == "BF16");
  CHECK(bias->shape == std::vector<int64_t>{32});
  CHECK(bias->bytes.size() == 64);
  CHECK(reinterpret_cast<uintptr_t>(bias->bytes.data()) % 64 == 0);
  CHECK(file->tensor(file->contents().at("modelopt_state")) == nullptr);
}

TEST_CASE("every instruction of plain data gives its value") {
  CHECK(contents("N").is_null());
  CHECK(contents("\x88") == true);
  CHECK(contents("\x89") == false);
  CHECK(contents("K\xff") == 255);
  CHECK(contents("M\x01\x02") == 513);
  CHECK(contents(p_int(-7)) == -7);
  CHECK(contents("\x8a\x01\xfe") == -2);
  CHECK(contents(std::string("\x8a\x00", 2)) == 0);
  CHECK(contents("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f") == INT64_MAX);
  CHECK(contents(std::string("G\x40\x40\0\0\0\0\0\0", 9)).dump() == "32.0");
  CHECK(contents(p_text("größe")) == "größe");
  CHECK(contents("]K\x01"
                 "a(K\x02K\x03"
                 "e") == Json({1, 2, 3}));
  CHECK(contents("(K\x01K\x02K\x03K\x04t") == Json({1, 2, 3, 4}));
  CHECK(contents(")") == Json::array());
  CHECK(contents("K\x01\x85") == Json({1}));
  CHECK(contents("K\x01K\x02\x86") == Json({1, 2}));
  CHECK(contents("K\x01K\x02K\x03\x87") == Json({1, 2, 3}));
  CHECK(contents("}" + p_text("a") + "K\x01s(" + p_text("b") + "K\x02u") ==
        Json({{"a", 1}, {"b", 2}}));
  CHECK(contents("](" + p_text("x") + "q" + std::string(1, '\0') + "h" + std::string(1, '\0') +
                 "e") == Json({"x", "x"}));
}

TEST_CASE("a container may stand in two places once it is complete") {
  const std::string zero(1, '\0');
  CHECK(contents("(]q" + zero +
                 "(K\x01"
                 "eh" +
                 zero + "t") == Json({{1}, {1}}));
}

TEST_CASE("tensors are views into their storages") {
  const auto storage = p_storage("FloatStorage", "0", 8);
  const auto file = parse(torch_bytes(
      p_file("(" + p_tensor(storage, 2, {2, 3}, {3, 1}) + p_tensor(storage, 0, {2, 2}, {1, 4}) +
             p_tensor(storage, 8, {0, 5}, {5, 1}) + p_tensor(storage, 7, {}, {}) + "t")));
  const auto& list = file->contents();
  REQUIRE(list.size() == 4);
  const auto& first = *file->tensor(list[0]);
  CHECK(first.dtype == "F32");
  CHECK(first.shape == std::vector<int64_t>{2, 3});
  CHECK(floats(first) == std::vector<float>{2, 3, 4, 5, 6, 7});
  CHECK(file->tensor(list[1])->strides == std::vector<int64_t>{1, 4});
  CHECK(file->tensor(list[2])->bytes.empty());
  CHECK(floats(*file->tensor(list[3])) == std::vector<float>{7});
  CHECK(file->tensor(Json::binary({}, 4)) == nullptr);
}

TEST_CASE("a storage of another writer's file may lack the byte order and the zip64 record") {
  auto items = torch_items(p_file("K\x05"));
  items.erase(items.begin() + 1);
  CHECK(parse(zip_bytes(items, {.zip64 = false}))->contents() == 5);
}

TEST_CASE("what is written is read back, and equal values give equal bytes") {
  const TemporaryFolder folder;
  const Json value = {{"null", nullptr},
                      {"flags", {true, false}},
                      {"numbers", {0, -1, 2147483647, -2147483649, INT64_MAX, 0.1, 32.0, -0.0}},
                      {"text", "größe\n"},
                      {"nested", {{"empty", Json::object()}, {"list", Json::array()}}},
                      {"pair", {"eagle", {{"a", 1}}}}};
  write_torch_file(folder / "state.pth", value, is_pair);
  const auto file = TorchFile::open(folder / "state.pth");
  CHECK(file->contents() == value);
  CHECK(file->contents().dump() == value.dump());
  const auto bytes = get(folder / "state.pth");
  write_torch_file(folder / "state.pth", value, is_pair);
  CHECK(get(folder / "state.pth") == bytes);
  CHECK(folder.names() == Names{"state.pth"});
}

TEST_CASE("a list that is a tuple to Python is written as one") {
  const TemporaryFolder folder;
  write_torch_file(folder / "a.pth", {"x", 1}, is_pair);
  CHECK(get(folder / "a.pth").find("\x80\x02(" + p_text("x") + p_int(1) + "t.") !=
        std::string::npos);
  write_torch_file(folder / "a.pth", {"x", 1});
  CHECK(get(folder / "a.pth").find("\x80\x02](" + p_text("x") + p_int(1) + "e.") !=
        std::string::npos);
}

TEST_CASE("what cannot be written is refused and leaves nothing") {
  const TemporaryFolder folder;
  const auto refuse = [&](const Json& value, const char* part) {
    check_error(ErrorCode::kInvalidArgument, part,
                [&] { write_torch_file(folder / "a.pth", value); });
  };
  refuse("\xff", "not UTF-8");
  refuse({{"\xff", 1}}, "not UTF-8");
  refuse(std::numeric_limits<double>::infinity(), "not finite");
  refuse(Json::binary({1}), "cannot hold bytes");
  CHECK(folder.names().empty());
}

TEST_CASE("tensors that were written are read as they were") {
  const TemporaryFolder folder;
  const std::vector<float> matrix{1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> number{-7};
  const std::map<std::string, TensorView> tensors{
      {"größe", {"F32", {2, 3}, std::as_bytes(std::span(matrix))}},
      {"number", {"I64", {}, std::as_bytes(std::span(number))}},
      {"none", {"BF16", {0, 4}, {}}}};
  write_torch_state_dict(folder / "a.pt", tensors);
  const auto file = TorchFile::open(folder / "a.pt");
  REQUIRE(file->contents().size() == 3);
  for (const auto& [name, expected] : tensors) {
    const auto* found = file->tensor(file->contents().at(name));
    REQUIRE(found != nullptr);
    CHECK(found->dtype == expected.dtype);
    CHECK(found->shape == expected.shape);
    CHECK(std::ranges::equal(found->bytes, expected.bytes));
    CHECK(reinterpret_cast<uintptr_t>(found->bytes.data()) % 64 == 0);
  }
  CHECK(file->tensor(file->contents().at("größe"))->strides == std::vector<int64_t>{3, 1});
  const auto bytes = get(folder / "a.pt");
  write_torch_state_dict(folder / "a.pt", tensors);
  CHECK(get(folder / "a.pt") == bytes);
}

TEST_CASE("tensors that cannot be written are refused and leave nothing") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kUnsupported, "tensors of F8_E4M3", [&] {
    write_torch_state_dict(folder / "a.pt", {{"a", {"F8_E4M3", {0}, {}}}});
  });
  check_error(ErrorCode::kInvalidArgument, "not UTF-8", [&] {
    write_torch_state_dict(folder / "a.pt", {{"\xff", {"F32", {0}, {}}}});
  });
  CHECK(folder.names().empty());
}

// With a small limit: the sizes that need 64 bits take too long to write.
TEST_CASE("archives with 64-bit sizes and places are read as those without") {
  for (const uint64_t limit : {uint64_t{0xFFFFFFFF}, uint64_t{500}, uint64_t{1}}) {
    std::ostringstream out;
    ZipWriter zip(out, limit);
    const std::string pickle = p_file("}(" + p_text("a") + p_int(1) + "u"), data(600, 'x');
    zip.add("t/data.pkl", pickle);
    zip.add("t/data/0", std::as_bytes(std::span(data)), 64);
    zip.add("t/version", "3\n");
    zip.finish();
    CHECK((out.str().find("PK\x06\x06") != std::string::npos) == (limit < 1000));
    CHECK(out.str().find("xxx") % 64 == 0);
    CHECK(parse(out.str())->contents() == Json{{"a", 1}});
  }
}

TEST_CASE("files that are not there or no files are named") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kFileNotFound, "a.pth' does not exist",
              [&] { TorchFile::open(folder / "a.pth"); });
  check_error(ErrorCode::kFileUnreadable, "not a regular file",
              [&] { TorchFile::open(folder.path()); });
  put(folder / "empty.pth", "");
  check_error(ErrorCode::kInvalidFile, "does not end with the directory of a zip file",
              [&] { TorchFile::open(folder / "empty.pth"); });
}

}  // namespace
}  // namespace outrider::torch_file_tests
