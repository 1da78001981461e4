// Package secretfile keeps what comes from files that are replaced while the
// program runs: tokens (File), a server's certificates (Server) and a client's
// (Client). Use costs an atomic read; at most once a second it also asks the file
// system whether a file has changed, following symbolic links, so that the swap of
// a Kubernetes Secret's folder is seen too. What cannot be read or understood
// changes nothing: the last good value stays, and the log says so once. But a token that
// the program accepts (OpenToken) counts only while its file is there and can be used.
package secretfile
