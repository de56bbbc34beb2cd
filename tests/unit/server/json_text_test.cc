#include "server/json_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "server/api_error.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

TEST(JsonText, EscapesWhatMustBe) {
  std::string out;
  append_json_string(out, "a\"\\\n\x01\x7f/\xC3\xA9");
  EXPECT_EQ(out, "\"a\\\"\\\\\\n\\u0001\\u007f/\xC3\xA9\"");
  EXPECT_EQ(Json::parse(out), "a\"\\\n\x01\x7f/\xC3\xA9");
  std::string every;
  for (int c = 0; c < 128; ++c) every += static_cast<char>(c);
  out.clear();
  append_json_string(out, every);
  EXPECT_EQ(Json::parse(out).get<std::string>(), every);
  out.clear();
  append_json_lossy(out,
                    "a\xff"
                    "b");
  EXPECT_EQ(Json::parse(out),
            "a\uFFFD"
            "b");
}

TEST(JsonText, LogprobsAreFinite) {
  const auto text = [](float value) {
    std::string out;
    append_logprob(out, value);
    return out;
  };
  EXPECT_EQ(text(-INFINITY), "-9999.0");
  EXPECT_EQ(text(NAN), "-9999.0");
  EXPECT_EQ(text(-10000.0f), "-9999.0");
  EXPECT_EQ(text(1e-9f), "0");
  EXPECT_FLOAT_EQ(std::stof(text(-0.12345679f)), -0.12345679f);
}

TEST(ApiErrors, EveryKindHasItsRow) {
  for (int i = 0; i <= static_cast<int>(ErrorKind::deadline); ++i) {
    const ApiError error{static_cast<ErrorKind>(i), "m\"\xff", "p"};
    EXPECT_GE(error.http_status(), 400);
    const Json json = Json::parse(error.body())["error"];
    EXPECT_TRUE(json["type"].is_string());
    EXPECT_EQ(json["param"], "p");
    EXPECT_TRUE(json["code"].is_null() || json["code"].is_string());
  }
  EXPECT_EQ(api_error_from(resource_exhausted("full")).http_status(), 503);
  EXPECT_EQ(api_error_from(unavailable("drain")).code(), "draining");
  EXPECT_EQ(api_error_from(invalid_argument("x")).http_status(), 400);
  EXPECT_EQ(api_error_from(internal_error("x")).http_status(), 500);
}

}  // namespace
}  // namespace sluice
