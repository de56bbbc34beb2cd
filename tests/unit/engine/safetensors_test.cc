#include "engine/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/engine/model_files.h"

namespace sluice {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  std::string error_of(const std::string& bytes) {
    write_file(dir_.path() / "model.safetensors", bytes);
    const auto opened = Safetensors::open(dir_.path());
    if (opened.ok()) return "(opened)";
    const std::string message(message_of(opened.status()));
    EXPECT_EQ(message.find('\n'), std::string::npos) << "one line: " << message;
    return message;
  }
  // One header over eight bytes of data.
  std::string error_of_header(const std::string& header) {
    return error_of(safetensors_bytes(header, "12345678"));
  }
  TempDir dir_;
};

TEST_F(SafetensorsTest, ReadsEveryTensor) {
  write_file(dir_.path() / "model.safetensors",
             safetensors_bytes(R"({"__metadata__":{"format":"pt"},)"
                               R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
                               R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                               R"("none":{"dtype":"F32","shape":[0,5],"data_offsets":[8,8]},)"
                               R"("one":{"dtype":"I64","shape":[],"data_offsets":[12,20]}}  )",
                               "aaaaAAAAbbBBoooooooo"));
  const auto opened = Safetensors::open(dir_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_EQ(opened->tensors().size(), 4u);
  EXPECT_EQ(opened->bytes(), 20u);
  const StoredTensor* a = opened->find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->dtype, DType::f32);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(a->data), a->bytes), "aaaaAAAA");
  const StoredTensor* b = opened->find("b");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b->data), b->bytes), "bbBB");
  EXPECT_EQ(opened->find("c"), nullptr);
}

TEST_F(SafetensorsTest, FilesCutAnywhereAreRefused) {
  const std::string whole = safetensors_bytes(
      {{"w", "F32", {2, 2}, f32_bytes({1, 2, 3, 4})}, {"v", "F32", {1}, f32_bytes({5})}});
  EXPECT_EQ(error_of(whole), "(opened)");
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(error_of(whole.substr(0, size)), HasSubstr("model.safetensors: ")) << size;
  EXPECT_THAT(error_of(whole + "x"), HasSubstr("data bytes 20 to 21 belong to no tensor"));
}

// Whatever one byte of a header becomes, the file opens with sane tensors or is refused.
TEST_F(SafetensorsTest, ChangedBytesNeverCrash) {
  const std::string whole = safetensors_bytes(
      {{"w", "F32", {2, 2}, f32_bytes({1, 2, 3, 4})}, {"v", "BF16", {4}, std::string(8, 'x')}});
  int refused = 0, tried = 0;
  for (size_t i = 0; i < whole.size() - 24; ++i) {
    for (const char value : std::string("\0\t\"[{}09-.\x80\xff", 12)) {
      std::string changed = whole;
      changed[i] = value;
      refused += error_of(changed) != "(opened)";
      ++tried;
    }
  }
  EXPECT_GT(refused, tried / 2);
}

TEST_F(SafetensorsTest, LyingHeadersAreRefused) {
  const struct {
    const char* header;
    const char* message;
  } cases[] = {
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}})", "outside the file's 8 data"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "outside the file's 8 data"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551615,8]}})", "outside"},
      {R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
       "F32 [3] takes 12 bytes, data_offsets span 8"},
      {R"({"w":{"dtype":"F64","shape":[2],"data_offsets":[0,8]}})", "takes 16 bytes"},
      {R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})",
       "\"shape\" is too large"},
      {R"({"w":{"dtype":"F32","shape":[281474976710656,281474976710656,281474976710656,0],)"
       R"("data_offsets":[0,0]}})",
       "\"shape\" is too large"},
      {R"({"w":{"dtype":"F32","shape":[9999999999999999999],"data_offsets":[0,8]}})",
       "expected a size"},
      {R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "expected a size"},
      {R"({"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", "expected a size"},
      {R"({"w":{"dtype":"F32","shape":"2","data_offsets":[0,8]}})", "must be a list"},
      {R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", "at most 8"},
      {R"({"w":{"dtype":"Q7","shape":[8],"data_offsets":[0,8]}})", "unknown dtype \"Q7\""},
      {R"({"w":{"dtype":7,"shape":[8],"data_offsets":[0,8]}})", "\"dtype\" must be a string"},
      {R"({"w":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", "whole number of bytes"},
      {R"({"w":{"dtype":"U8","shape":[8]}})", "\"data_offsets\" must be two offsets"},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0]}})", "must be two offsets"},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,-8]}})", "must be two offsets"},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"more":1}})", "unknown key"},
      {R"({"w":[1]})", "expected an object, found a list"},
      {R"({"__metadata__":1})", "__metadata__"},
      {R"({})", "data bytes 0 to 8 belong to no tensor"},
      {R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       "tensor b overlaps another at data byte 4"},
      {R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
       "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       "data bytes 3 to 4 belong to no tensor"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       "key \"a\" occurs twice"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
       "key \"dtype\" occurs twice"},
      {R"([1])", "expected an object"},
      {R"({"w":)", "not JSON"},
      {"", "not JSON"},
      {"\xff\xfe", "not JSON"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(error_of_header(c.header),
                AllOf(HasSubstr("model.safetensors: "), HasSubstr(c.message)))
        << c.header;
  EXPECT_THAT(error_of_header(std::string(1 << 20, '[')), HasSubstr("nested deeper than"));
}

TEST_F(SafetensorsTest, HeaderLengthIsBounded) {
  std::string bytes(64, '\0');
  const uint64_t lengths[] = {57, 1000, 100'000'001, ~uint64_t{0}, ~uint64_t{0} - 7};
  for (const uint64_t length : lengths) {
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_THAT(error_of(bytes), HasSubstr("header of ")) << length;
  }
}

TEST_F(SafetensorsTest, OnlyRegularFiles) {
  EXPECT_THAT(std::string(message_of(Safetensors::open(dir_.path()).status())),
              HasSubstr("neither model.safetensors nor"));
  write_file(dir_.path() / "pytorch_model.bin", "x");
  EXPECT_THAT(std::string(message_of(Safetensors::open(dir_.path()).status())),
              HasSubstr("convert it to safetensors"));
  ASSERT_EQ(::mkfifo((dir_.path() / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(std::string(message_of(Safetensors::open(dir_.path()).status())),
              HasSubstr("not a regular file"));
  std::filesystem::remove(dir_.path() / "model.safetensors");
  std::filesystem::create_directory(dir_.path() / "model.safetensors");
  EXPECT_THAT(std::string(message_of(Safetensors::open(dir_.path()).status())),
              HasSubstr("not a regular file"));
}

class ShardsTest : public SafetensorsTest {
 protected:
  void SetUp() override {
    write_file(dir_.path() / "m-1.safetensors",
               safetensors_bytes({{"a", "F32", {1}, f32_bytes({1})}}));
    write_file(dir_.path() / "m-2.safetensors",
               safetensors_bytes({{"b", "F32", {2}, f32_bytes({2, 3})}}));
  }
  std::string error_of_index(const std::string& index) {
    write_file(dir_.path() / "model.safetensors.index.json", index);
    const auto opened = Safetensors::open(dir_.path());
    return opened.ok() ? "(opened)" : std::string(message_of(opened.status()));
  }
};

TEST_F(ShardsTest, ReadsThemAll) {
  EXPECT_EQ(error_of_index(R"({"metadata":{"total_size":12},)"
                           R"("weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})"),
            "(opened)");
  const auto opened = Safetensors::open(dir_.path());
  EXPECT_EQ(opened->find("b")->file, "m-2.safetensors");
  EXPECT_EQ(opened->bytes(), 12u);
}

TEST_F(ShardsTest, FaultsAreNamed) {
  const struct {
    const char* index;
    const char* message;
  } cases[] = {
      {R"({"weight_map":{"a":"m-1.safetensors","b":"m-3.safetensors"}})",
       "shard m-3.safetensors is missing"},
      {R"({"weight_map":{"a":"m-2.safetensors","b":"m-2.safetensors"}})",
       "tensor a is not in m-2.safetensors"},
      {R"({"weight_map":{"a":"m-1.safetensors","c":"m-2.safetensors"}})",
       "tensor c is not in m-2.safetensors"},
      {R"({"weight_map":{"a":"../m-1.safetensors"}})", "is not a file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "is not a file name"},
      {R"({"weight_map":{"a":"m-1.safetensors\u0000"}})", "is not a file name"},
      {R"({"weight_map":{"a":""}})", "is not a file name"},
      {R"({"weight_map":{"a":7}})", "is not a file name"},
      {R"({"weight_map":{}})", "\"weight_map\" must be"},
      {R"({"weight_map":7})", "\"weight_map\" must be"},
      {R"({})", "\"weight_map\" must be"},
      {R"({"weight_map":)", "not JSON"},
  };
  for (const auto& c : cases) EXPECT_THAT(error_of_index(c.index), HasSubstr(c.message)) << c.index;
  write_file(dir_.path() / "m-2.safetensors",
             safetensors_bytes({{"a", "F32", {1}, f32_bytes({1})}}));
  EXPECT_THAT(error_of_index(R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})"),
              HasSubstr("tensor a is also in m-1.safetensors"));
}

// Found by fuzz_safetensors: a tensor that lies in another file than the index says is there.
TEST_F(ShardsTest, WhatIsThereIsNotLostWithAFileThatIsNot) {
  write_file(
      dir_.path() / "model.safetensors.index.json",
      R"({"weight_map":{"a":"m-3.safetensors","b":"m-1.safetensors","c":"m-3.safetensors"}})");
  std::vector<absl::Status> problems;
  const Safetensors opened = Safetensors::review(dir_.path(), problems);
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_THAT(std::string(message_of(problems[0])), HasSubstr("shard m-3.safetensors is missing"));
  EXPECT_THAT(std::string(message_of(problems[1])), HasSubstr("b is not in m-1.safetensors"));
  EXPECT_TRUE(opened.find("a") != nullptr && !opened.is_lost("a"));
  EXPECT_TRUE(opened.find("c") == nullptr && opened.is_lost("c"));
}

}  // namespace
}  // namespace sluice
