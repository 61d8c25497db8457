
# Added to vault.hcl where the program is OpenBao: Vault knows no such block.
# https://openbao.org/docs/configuration/audit/

audit "file" "file" {
  options {
    file_path = "/vault/audit/audit.log"
  }
}
