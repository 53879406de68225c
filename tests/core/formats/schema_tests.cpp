#include <limits>

#include "outrider/config/schema.h"
#include "support.h"

namespace outrider {
namespace {

using test::check_error;

class Schema final : public ConfigSchema {
 public:
  explicit Schema(std::vector<FieldInfo> fields) : ConfigSchema("TestConfig", 3) {
    for (auto& field : fields) add_field(std::move(field));
  }
};

FieldInfo of_type(FieldType type) { return {.name = "field", .type = type}; }

std::optional<Json> coerced(const Json& value, FieldType type) {
  std::string problem;
  auto result = coerce(value, of_type(type), problem);
  CHECK(result.has_value() == problem.empty());
  return result;
}

struct Row {
  Json given, expected;
};

/// The value and its type: 1, 1.0 and true compare equal in Json.
void check_accepted(FieldType type, const std::vector<Row>& rows) {
  for (const auto& [given, expected] : rows) {
    CAPTURE(given.dump());
    const auto result = coerced(given, type);
    REQUIRE(result.has_value());
    CHECK(result->dump() == expected.dump());
    CHECK(result->type_name() == std::string(expected.type_name()));
  }
}

void check_refused(FieldType type, const std::vector<Json>& values) {
  for (const auto& value : values) {
    CAPTURE(value.dump());
    CHECK_FALSE(coerced(value, type).has_value());
  }
}

TEST_CASE("integers are accepted in every form that pydantic takes") {
  const auto smallest = std::numeric_limits<int64_t>::min();
  const auto largest = std::numeric_limits<int64_t>::max();
  check_accepted(FieldType::kInt, {{7, 7},
                                   {-7, -7},
                                   {7u, 7},
                                   {largest, largest},
                                   {smallest, smallest},
                                   {true, 1},
                                   {false, 0},
                                   {7.0, 7},
                                   {-0.0, 0},
                                   {1e18, 1000000000000000000},
                                   {"7", 7},
                                   {" 7\t\n", 7},
                                   {"\u00a0\u2003 7\u3000\u0085", 7},
                                   {"+7", 7},
                                   {"-7", -7},
                                   {"007", 7},
                                   {"-007", -7},
                                   {"7.0", 7},
                                   {" -7.00 ", -7},
                                   {"1_000", 1000},
                                   {"1_0.0", 10},
                                   {"-0", 0},
                                   {"-9223372036854775808", smallest},
                                   {"9223372036854775807", largest}});
  check_refused(FieldType::kInt, {7.5,
                                  1e300,
                                  9223372036854775808.0,
                                  9223372036854775808u,
                                  std::numeric_limits<double>::quiet_NaN(),
                                  "9223372036854775808",
                                  "7.5",
                                  "7.",
                                  ".0",
                                  "1e3",
                                  "7.0e0",
                                  "0x10",
                                  "x",
                                  "",
                                  " ",
                                  "+",
                                  "+-7",
                                  "--7",
                                  "+ 7",
                                  "7 .0",
                                  "7. 0",
                                  "7.0_0",
                                  "_1",
                                  "1_",
                                  "1__0",
                                  "-_7",
                                  "\u0667",
                                  "\x1c"
                                  "7",
                                  "7\u200b",
                                  nullptr,
                                  Json::array({7}),
                                  Json::object()});
}

TEST_CASE("floats are accepted in every finite form that pydantic takes") {
  check_accepted(FieldType::kFloat, {{7.5, 7.5},
                                     {7, 7.0},
                                     {-7, -7.0},
                                     {true, 1.0},
                                     {false, 0.0},
                                     {"7", 7.0},
                                     {" 1e-3 ", 0.001},
                                     {"1e-400", 0.0},
                                     {"\u20077\u00a0", 7.0},
                                     {"1E5", 100000.0},
                                     {"+.5", 0.5},
                                     {"5.", 5.0},
                                     {"1_0.5", 10.5},
                                     {"-2.5", -2.5}});
  check_refused(FieldType::kFloat, {"inf",
                                    "-Infinity",
                                    "nan",
                                    "1e400",
                                    std::numeric_limits<double>::infinity(),
                                    std::numeric_limits<double>::quiet_NaN(),
                                    "0x10",
                                    "",
                                    ".",
                                    "e5",
                                    "1e",
                                    "+-1",
                                    "- 1",
                                    "1__0",
                                    "_1",
                                    "1_",
                                    "1 2",
                                    nullptr,
                                    Json::array(),
                                    Json::object()});
}

TEST_CASE("booleans are accepted in every form that pydantic takes") {
  check_accepted(FieldType::kBool,
                 {{true, true},     {false, false}, {1, true},      {0, false},     {1.0, true},
                  {0.0, false},     {-0.0, false},  {"true", true}, {"TRUE", true}, {"tRuE", true},
                  {"yes", true},    {"on", true},   {"y", true},    {"T", true},    {"1", true},
                  {"false", false}, {"No", false},  {"off", false}, {"n", false},   {"f", false},
                  {"0", false}});
  check_refused(FieldType::kBool, {2, -1, 0.5, " true ", "1.0", "", "00", "-0", "truee", nullptr,
                                   Json::array(), Json::object()});
}

TEST_CASE("strings, lists and objects are accepted as they are") {
  check_accepted(FieldType::kString, {{"a", "a"}, {"", ""}, {"7", "7"}});
  check_refused(FieldType::kString, {1, true, 1.5, nullptr, Json::array(), Json::object()});
  check_accepted(FieldType::kList,
                 {{Json::array(), Json::array()}, {{1, "a", nullptr}, {1, "a", nullptr}}});
  check_refused(FieldType::kList, {"abc", 1, nullptr, Json::object()});
  check_accepted(FieldType::kObject,
                 {{Json::object(), Json::object()}, {{{"a", 1.0}}, {{"a", 1.0}}}});
  check_refused(FieldType::kObject, {"a", nullptr, Json::array(), Json::array({{"a", 1}})});
}

TEST_CASE("elements of a typed list are brought to their type") {
  FieldInfo field = of_type(FieldType::kList);
  field.element = FieldType::kInt;
  std::string problem;
  CHECK(coerce({"7", 1.0, true}, field, problem)->dump() == "[7,1,1]");
  CHECK_FALSE(coerce({1, 2.5, "x"}, field, problem));
  CHECK(problem == "got [1,2.5,\"x\"] with 2.5 at index 1, expected a list of 64-bit integers");
}

TEST_CASE("a problem says what was given and what would be accepted") {
  struct Case {
    FieldInfo field;
    Json given;
    const char* problem;
  };
  const Case cases[] = {
      {{.type = FieldType::kInt, .minimum = 1, .maximum = 8},
       9,
       "got 9, expected a 64-bit integer from 1 to 8"},
      {{.type = FieldType::kInt, .nullable = true, .minimum = 1},
       "0",
       "got \"0\", expected a 64-bit integer of at least 1 or null"},
      {{.type = FieldType::kFloat, .maximum = 0.5},
       1,
       "got 1, expected a finite number of at most 0.5"},
      {{.type = FieldType::kString, .choices = {"llama", "kimik2"}},
       "lama",
       "got \"lama\", expected one of \"llama\", \"kimik2\""},
      {{.type = FieldType::kBool}, nullptr, "got null, expected true or false"},
      {{.type = FieldType::kObject}, Json::array(), "got [], expected an object"},
      {{.type = FieldType::kString}, 1, "got 1, expected a string"},
  };
  for (const auto& [field, given, expected] : cases) {
    std::string problem;
    CHECK_FALSE(coerce(given, field, problem));
    CHECK(problem == expected);
  }
}

TEST_CASE("bounds are inclusive, null is outside of them, and choices compare converted values") {
  std::string problem;
  FieldInfo number{.type = FieldType::kInt, .nullable = true, .minimum = 1, .maximum = 8};
  CHECK(*coerce(1, number, problem) == 1);
  CHECK(*coerce("8.0", number, problem) == 8);
  CHECK(coerce(nullptr, number, problem)->is_null());
  const FieldInfo choice{.type = FieldType::kInt, .choices = {1, 2}};
  CHECK(*coerce("2", choice, problem) == 2);
  CHECK(problem.empty());
  CHECK_FALSE(coerce(nullptr, choice, problem));
}

TEST_CASE("a value in a message is printable and cut") {
  std::string problem;
  CHECK_FALSE(coerce(std::string(1000, 'x') + "\x1b", of_type(FieldType::kInt), problem));
  CHECK(problem == "got \"" + std::string(59, 'x') + "…, expected a 64-bit integer");
  CHECK_FALSE(coerce("\u202e\xff", of_type(FieldType::kInt), problem));
  CHECK(problem == "got \"\\u202e\ufffd\", expected a 64-bit integer");
}

Schema small_schema() {
  return Schema({{.name = "steps",
                  .description = "Steps.",
                  .type = FieldType::kInt,
                  .default_value = 3,
                  .minimum = 1},
                 {.name = "rate", .type = FieldType::kFloat, .default_value = 0.5},
                 {.name = "layers",
                  .type = FieldType::kList,
                  .element = FieldType::kInt,
                  .default_value = nullptr,
                  .nullable = true},
                 {.name = "kind",
                  .type = FieldType::kString,
                  .default_value = "a",
                  .choices = {"a", "b"},
                  .extension = true},
                 {.name = "extra", .type = FieldType::kObject, .default_value = Json::object()}});
}

TEST_CASE("resolving puts the user's values over the defaults") {
  const auto schema = small_schema();
  CHECK(schema.title() == "TestConfig");
  CHECK(schema.version() == 3);
  CHECK(schema.resolve(Json::object()).dump() ==
        R"({"extra":{},"kind":"a","layers":null,"rate":0.5,"steps":3})");
  CHECK(schema
            .resolve({{"steps", "7"},
                      {"rate", 1},
                      {"layers", {1.0}},
                      {"kind", "b"},
                      {"extra", {{"k", 32.0}}}})
            .dump() == R"({"extra":{"k":32.0},"kind":"b","layers":[1],"rate":1.0,"steps":7})");
}

TEST_CASE("every problem of a config is reported at once") {
  const auto schema = small_schema();
  const auto message = check_error(ErrorCode::kInvalidConfig, "TestConfig is not valid:", [&] {
    schema.resolve(
        {{"setps", 4}, {"steps", 0}, {"rate", "fast"}, {"a/b~c\n", 1}, {"kind", nullptr}});
  });
  CHECK(message ==
        "TestConfig is not valid:\n"
        "  /a~1b~0c\\n: unknown key; known are: steps, rate, layers, kind, extra\n"
        "  /setps: unknown key; did you mean 'steps'?\n"
        "  /steps: got 0, expected a 64-bit integer of at least 1\n"
        "  /rate: got \"fast\", expected a finite number\n"
        "  /kind: got null, expected one of \"a\", \"b\"");
}

TEST_CASE("a config that is no object is refused") {
  for (const auto& value : {Json(), Json::array(), Json("eagle"), Json(1)}) {
    check_error(ErrorCode::kInvalidConfig, "expected an object",
                [&] { small_schema().resolve(value); });
  }
}

TEST_CASE("a flood of unknown keys is cut") {
  Json config = Json::object();
  for (int i = 0; i < 5000; ++i) config["key" + std::to_string(i)] = i;
  const auto message = check_error(ErrorCode::kInvalidConfig, "/key0: unknown key",
                                   [&] { small_schema().resolve(config); });
  CHECK(std::count(message.begin(), message.end(), '\n') == 100);
}

TEST_CASE("the JSON Schema describes every field") {
  const Json expected = R"({
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "TestConfig",
    "type": "object",
    "additionalProperties": false,
    "properties": {
      "steps": {"type": "integer", "description": "Steps.", "default": 3, "minimum": 1},
      "rate": {"type": "number", "description": "", "default": 0.5},
      "layers": {"type": ["array", "null"], "items": {"type": "integer"}, "description": "",
                 "default": null},
      "kind": {"type": "string", "description": "", "default": "a", "enum": ["a", "b"],
               "x-outrider-extension": true},
      "extra": {"type": "object", "description": "", "default": {}}
    }
  })"_json;
  CHECK(small_schema().json_schema().dump(1) == expected.dump(1));
}

TEST_CASE("the JSON Schema lists null among the choices of a nullable field") {
  const Schema schema({{.name = "k", .type = FieldType::kInt, .nullable = true, .choices = {1}}});
  const Json property = schema.json_schema()["properties"]["k"];
  CHECK(property["enum"] == Json::array({1, nullptr}));
  CHECK(property["type"] == Json::array({"integer", "null"}));
}

TEST_CASE("bounds of an integer that no integer has are written as numbers") {
  const Schema schema({{.name = "k",
                        .type = FieldType::kInt,
                        .minimum = -1e300,
                        .maximum = 9223372036854775808.0}});
  const Json property = schema.json_schema()["properties"]["k"];
  CHECK(property["minimum"] == Json(-1e300));
  CHECK(property["maximum"].is_number_float());
}

}  // namespace
}  // namespace outrider
