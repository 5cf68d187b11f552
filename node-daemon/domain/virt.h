// libvirt's handles with owners, and its errors as values. libvirt's own calls may come from any thread.
#pragma once

#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "common/result.h"

namespace stillpoint::node {

struct VirFree {
  void operator()(virConnectPtr p) const { virConnectClose(p); }
  void operator()(virDomainPtr p) const { virDomainFree(p); }
  void operator()(virDomainSnapshotPtr p) const { virDomainSnapshotFree(p); }
  void operator()(char* p) const { std::free(p); }
};
using Connection = std::unique_ptr<virConnect, VirFree>;
using DomainHandle = std::unique_ptr<virDomain, VirFree>;
using VirString = std::unique_ptr<char, VirFree>;

// The calling thread's last libvirt error. Directly after the call that failed.
inline Error libvirt_error(std::string step, std::string object) {
  const virErrorPtr error = virGetLastError();
  const int code = error ? error->code : VIR_ERR_OK;
  ErrorKind kind = ErrorKind::permanent;
  if (code == VIR_ERR_NO_DOMAIN) kind = ErrorKind::not_found;
  if (code == VIR_ERR_OPERATION_TIMEOUT) kind = ErrorKind::transient;
  return {kind, std::move(step), std::move(object), error && error->message ? error->message : "libvirt says nothing"};
}

}  // namespace stillpoint::node
