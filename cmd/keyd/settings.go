package main

import (
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/keyserver"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// settingsOf returns the server's settings in the configuration. It opens the files of tokens.
func settingsOf(cfg *config.Keyd, log *zap.Logger) (keyserver.Settings, error) {
	s := keyserver.Settings{
		Lease:           cfg.Lease.Duration,
		LongestMaxStale: cfg.LongestMaxStale.Duration,
		LogRetention:    cfg.LogRetention.Duration,
		Catalogue:       keyserver.Catalogue{},
		KeysPerAccount:  cfg.KeysPerAccount,
		OwnerLimits:     keyserver.OwnerLimits(cfg.OwnerLimits),
	}
	if names := cfg.Listen.ClientNames; names != nil {
		s.ClientNames = keyserver.ClientNames(*names)
	}
	for name, scope := range cfg.Scopes {
		s.Catalogue[name] = keyserver.ByOperator
		if scope.GrantedBy == config.ByOwner {
			s.Catalogue[name] = keyserver.ByOwner
		}
	}
	for _, path := range cfg.SidecarTokenFiles {
		file, err := secretfile.OpenToken(string(path), log)
		if err != nil {
			return keyserver.Settings{}, err
		}
		s.SidecarTokens = append(s.SidecarTokens, file.Get)
	}
	for _, op := range cfg.Operators {
		file, err := secretfile.OpenToken(string(op.TokenFile), log)
		if err != nil {
			return keyserver.Settings{}, err
		}
		s.Operators = append(s.Operators, keyserver.Operator{Name: op.Name, Token: file.Get})
	}
	if len(s.SidecarTokens) == 0 && (cfg.Listen.TLS == nil || cfg.Listen.TLS.ClientCAFile == "") {
		log.Warn("all sidecar requests are rejected: sidecar_token_files and listen.tls.client_ca_file are missing")
	}
	if cfg.OwnersOpen() {
		log.Warn("listen.owners trusts every program on this machine: only a Unix socket or listen.tls.client_ca_file restricts it to Envoy")
	}
	if len(s.Operators) == 0 {
		log.Warn("all operator requests are rejected: operators is empty")
	}
	return s, nil
}
