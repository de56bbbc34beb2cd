#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sluice {

// What a tokenizer.model says (SentencePiece's ModelProto), as far as it matters to encoding and
// decoding; what the file leaves out has SentencePiece's defaults.
struct SentencePieceFile {
  enum class Type : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };
  struct Piece {
    std::string content;  // UTF-8, not empty
    float score = 0;
    Type type = Type::normal;
  };
  enum class Model : uint8_t { unigram = 1, bpe, word, character };

  std::vector<Piece> pieces;  // [id]
  Model model = Model::unigram;
  bool byte_fallback = false;
  bool space_as_suffix = false;
  int bos_id = 1, eos_id = 2;
  std::string charsmap;  // empty: none
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool mark_spaces = true;
  std::string output_charsmap;  // of decoded text
};

// Whatever the bytes are, the answer is a file or one line that says where it is wrong. The format
// is read here, not by libsentencepiece: that brings a protobuf of its own, which cannot be in one
// process with gRPC's.
absl::StatusOr<SentencePieceFile> read_sentencepiece_file(std::string_view bytes);

}  // namespace sluice
