package secretfile

import (
	"crypto/tls"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// ReadOnce reads a secret as Open does, once. It is for programs that run for a short time, and
// for what is not a regular file, such as a pipe. Its errors name the file and never what is in it.
func ReadOnce(path string) (credential.Secret, error) { return read(path) }

// ReadClient returns the configuration that NewClient makes, read once. The files may be pipes.
func ReadClient(caFile, certFile, keyFile string, log *zap.Logger) (*tls.Config, error) {
	conf, err := readClient(caFile, certFile, keyFile)
	if err == nil && keyFile != "" {
		warnIfOpen(keyFile, log)
	}
	return conf, err
}

func readClient(caFile, certFile, keyFile string) (conf *tls.Config, err error) {
	conf = newConfig()
	if caFile != "" {
		if conf.RootCAs, err = pool(caFile); err != nil {
			return nil, err
		}
	}
	if certFile != "" {
		cert, err := pair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}
