#pragma once

#include <grpcpp/support/status.h>

#include "server/api_error.h"
#include "server/api_types.h"
#include "server/chunk_writer.h"
#include "server/request_registry.h"
#include "sluice/v1/inference.pb.h"
#include "text/tokenizer.h"

// Messages of the gRPC API to and from the protocol-neutral types. The only place, with
// grpc_service.cc, that knows protobuf.
namespace sluice {

MaybeError from_proto(const v1::GenerateRequest&, ApiRequest* out);
MaybeError from_proto(const v1::ChatRequest&, ApiRequest* out);
MaybeError from_proto(const v1::TokenizeRequest&, ApiRequest* out);

// Adds what `delta` brings: text is appended, so that several deltas may gather in one piece.
void append_piece(const Delta& delta, const Tokenizer&, bool want_logprobs, v1::Piece* piece);
void set_prompt_logprobs(const PromptOut& prompt, const Tokenizer&, v1::Piece* piece);
void set_usage(const Usage& usage, v1::Usage* out);
void set_timing(const Timing& timing, v1::Timing* out);

void set_request(const RequestView& view, v1::RequestInfo* out);
void set_trace(const RequestView& view, v1::RequestTrace* out);

grpc::Status to_status(const ApiError& error);

}  // namespace sluice
