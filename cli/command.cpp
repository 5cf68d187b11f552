#include "cli/command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace stillpoint::cli {

std::ostream& operator<<(std::ostream& out, const Failure& failure) {
  return out << failure.error << " (exit code " << failure.exit_code << ")";
}

void throw_exception_from_error(const Failure& failure, const boost::source_location& where) {
  stillpoint::throw_exception_from_error(failure.error, where);
}

void print_json(CommandContext& context, const nlohmann::json& document) {
  // Names and output may hold bytes that are not UTF-8: replaced, never an exception.
  context.out << document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
}

int report(CommandContext& context, const Failure& failure) {
  const auto message = failure.error.message();
  context.err << "stillpoint: " << message << std::endl;
  if (context.json) {
    print_json(context, {{"error", {{"kind", std::string(name(failure.error.kind))}, {"message", message}}}});
  }
  return failure.exit_code;
}

int report(CommandContext& context, const Error& error) { return report(context, Failure{error}); }

void note(CommandContext& context, const std::string& text) { context.err << "stillpoint: " << text << std::endl; }

}  // namespace stillpoint::cli
