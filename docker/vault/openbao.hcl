# Beside vault.hcl, where the program is OpenBao: it takes audit devices from its configuration only, and Vault knows no such block.
# https://openbao.org/docs/configuration/audit/

audit "file" "file" {
  options {
    file_path = "/vault/audit/audit.log"
  }
}
