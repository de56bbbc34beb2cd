#include "text/sentencepiece_file.h"

#include <absl/functional/function_ref.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "text/json_reader.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr size_t kMaxPieceBytes = 1024;

// A field of a message in the wire format of protobuf.
struct Field {
  uint64_t number;
  enum class Kind : uint8_t { varint, fixed64, bytes, fixed32 } kind;
  uint64_t value;          // of numbers
  std::string_view bytes;  // of the others
};

// Takes a message apart. A message lies inside another, so errors count from the file's beginning.
class Message {
 public:
  Message(std::string_view bytes, size_t offset) : bytes_(bytes), offset_(offset) {}

  using Visit = absl::FunctionRef<absl::Status(const Field&)>;
  absl::Status for_each(Visit visit) {
    while (at_ < bytes_.size()) {
      const size_t begin = at_;
      Field field{};
      if (!next(field))
        return invalid_argument("not a SentencePiece model, or damaged at byte {}",
                                offset_ + begin);
      if (absl::Status status = visit(field); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  // Of the bytes of a field that has just been read.
  size_t offset() const { return offset_ + at_; }

 private:
  bool varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at_ < bytes_.size(); shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool take(uint64_t size, std::string_view& out) {
    if (size > bytes_.size() - at_) return false;
    out = bytes_.substr(at_, size);
    at_ += size;
    return true;
  }
  bool next(Field& field) {
    uint64_t tag = 0, size = 0;
    if (!varint(tag) || tag >> 3 == 0) return false;
    field.number = tag >> 3;
    switch (tag & 7) {
      case 0:
        field.kind = Field::Kind::varint;
        return varint(field.value);
      case 1:
        field.kind = Field::Kind::fixed64;
        return take(8, field.bytes);
      case 2:
        field.kind = Field::Kind::bytes;
        return varint(size) && take(size, field.bytes);
      case 5: {
        field.kind = Field::Kind::fixed32;
        if (!take(4, field.bytes)) return false;
        uint32_t bits;
        std::memcpy(&bits, field.bytes.data(), sizeof(bits));
        field.value = bits;
        return true;
      }
      default:
        return false;  // groups, which nobody writes any more
    }
  }

  std::string_view bytes_;
  size_t offset_;
  size_t at_ = 0;
};

absl::Status wrong_kind(const Message& message, std::string_view name) {
  return invalid_argument("\"{}\" before byte {} is not of its type", name, message.offset());
}

absl::Status read_number(const Message& message, const Field& field, std::string_view name,
                         uint64_t& out) {
  if (field.kind != Field::Kind::varint) return wrong_kind(message, name);
  out = field.value;
  return absl::OkStatus();
}

absl::Status read_flag(const Message& message, const Field& field, std::string_view name,
                       bool& out) {
  uint64_t value = out;
  absl::Status status = read_number(message, field, name, value);
  out = value != 0;
  return status;
}

absl::Status read_bytes(const Message& message, const Field& field, std::string_view name,
                        std::string& out) {
  if (field.kind != Field::Kind::bytes) return wrong_kind(message, name);
  out = field.bytes;
  return absl::OkStatus();
}

absl::Status read_piece(Message message, size_t id, SentencePieceFile::Piece& piece) {
  absl::Status status = message.for_each([&](const Field& field) -> absl::Status {
    if (field.number == 1) return read_bytes(message, field, "piece", piece.content);
    if (field.number == 2) {
      if (field.kind != Field::Kind::fixed32) return wrong_kind(message, "score");
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    }
    if (field.number != 3) return absl::OkStatus();
    uint64_t type = 0;
    if (absl::Status read = read_number(message, field, "type", type); !read.ok()) return read;
    if (type < 1 || type > 6)
      return invalid_argument("pieces[{}]: \"type\" is {}, expected 1 to 6", id, type);
    piece.type = static_cast<SentencePieceFile::Type>(type);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  if (piece.content.empty() || piece.content.size() > kMaxPieceBytes)
    return invalid_argument("pieces[{}]: a piece of {} bytes, expected 1 to {}", id,
                            piece.content.size(), kMaxPieceBytes);
  if (utf8_valid_prefix(piece.content) != piece.content.size())
    return invalid_argument("pieces[{}]: the piece is not UTF-8", id);
  if (!std::isfinite(piece.score))
    return invalid_argument("pieces[{}]: the score of '{}' must be finite", id, piece.content);
  return absl::OkStatus();
}

absl::Status read_trainer_spec(Message message, SentencePieceFile& file) {
  return message.for_each([&](const Field& field) -> absl::Status {
    uint64_t value = 0;
    absl::Status status;
    switch (field.number) {
      case 3:
        status = read_number(message, field, "model_type", value);
        if (status.ok() && (value < 1 || value > 4))
          return invalid_argument("\"model_type\" is {}, expected 1 to 4", value);
        file.model = static_cast<SentencePieceFile::Model>(value);
        return status;
      case 24:
        return read_flag(message, field, "treat_whitespace_as_suffix", file.space_as_suffix);
      case 35:
        return read_flag(message, field, "byte_fallback", file.byte_fallback);
      case 41:
        status = read_number(message, field, "bos_id", value);
        file.bos_id = static_cast<int>(value);  // -1: there is none
        return status;
      case 42:
        status = read_number(message, field, "eos_id", value);
        file.eos_id = static_cast<int>(value);
        return status;
      default:
        return absl::OkStatus();  // how it was trained
    }
  });
}

absl::Status read_normalizer_spec(Message message, SentencePieceFile& file) {
  return message.for_each([&](const Field& field) -> absl::Status {
    switch (field.number) {
      case 2:
        return read_bytes(message, field, "precompiled_charsmap", file.charsmap);
      case 3:
        return read_flag(message, field, "add_dummy_prefix", file.add_dummy_prefix);
      case 4:
        return read_flag(message, field, "remove_extra_whitespaces", file.remove_extra_spaces);
      case 5:
        return read_flag(message, field, "escape_whitespaces", file.mark_spaces);
      default:
        return absl::OkStatus();  // its name, and what the map was made from
    }
  });
}

absl::Status read_denormalizer_spec(Message message, SentencePieceFile& file) {
  return message.for_each([&](const Field& field) {
    return field.number == 2
               ? read_bytes(message, field, "precompiled_charsmap", file.output_charsmap)
               : absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<SentencePieceFile> read_sentencepiece_file(std::string_view bytes) {
  SentencePieceFile file;
  Message message(bytes, 0);
  absl::Status status = message.for_each([&](const Field& field) -> absl::Status {
    if (field.number < 1 || field.number > 5) return absl::OkStatus();
    if (field.kind != Field::Kind::bytes)
      return invalid_argument("not a SentencePiece model, or damaged before byte {}",
                              message.offset());
    const Message inner(field.bytes, message.offset() - field.bytes.size());
    if (field.number == 2) return read_trainer_spec(inner, file);
    if (field.number == 3) return read_normalizer_spec(inner, file);
    if (field.number == 5) return read_denormalizer_spec(inner, file);
    if (field.number != 1) return absl::OkStatus();  // samples to test it with
    const size_t id = file.pieces.size();
    if (id > static_cast<size_t>(kMaxTokenId))
      return invalid_argument("more than {} pieces", kMaxTokenId);
    file.pieces.emplace_back();
    return read_piece(inner, id, file.pieces.back());
  });
  if (!status.ok()) return status;
  if (file.pieces.empty()) return invalid_argument("not a SentencePiece model: it has no pieces");
  return file;
}

}  // namespace sluice
