# All experiments of the standard set: the same as `sixgig run all`, with the same options.
if (-not (Get-Command sixgig -ErrorAction SilentlyContinue)) {
    [Console]::Error.WriteLine("sixgig is not on the PATH: activate the environment that it is installed in")
    exit 2
}
sixgig run all @args
exit $LASTEXITCODE
