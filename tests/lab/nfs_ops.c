/* nfs_ops nfs://SERVER/EXPORT?OPTIONS: calls every procedure of NFS version 3 that libnfs can be brought to
 * call, looks at what comes back, and prints inode and device number of /c/deep/moved. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <unistd.h>
#include <nfsc/libnfs.h>

static struct nfs_context *nfs;

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, nfs_get_error(nfs));
    exit(1);
}

int main(int argc, char **argv)
{
    static char data[300000], back[sizeof data];
    struct timeval times[2] = {{1000000000, 0}, {1000000001, 500000}};
    struct nfs_stat_64 st;
    struct statvfs fs;
    struct nfsfh *file;
    struct nfsdir *dir;
    struct nfsdirent *entry;
    char text[200];
    int names = 0;
    unsigned i;

    nfs = nfs_init_context();
    if (argc != 2)
        return 2;
    struct nfs_url *url = nfs_parse_url_dir(nfs, argv[1]);
    must(url != NULL, "parse");
    must(nfs_mount(nfs, url->server, url->path) == 0, "mount");
    must(nfs_mkdir(nfs, "/c") == 0 && nfs_mkdir(nfs, "/c/deep") == 0, "mkdir");
    for (i = 0; i < sizeof data; i++)
        data[i] = i * 7 + i / 256;
    must(nfs_creat(nfs, "/c/f", 0640, &file) == 0, "creat");
    must(nfs_pwrite(nfs, file, 0, sizeof data, data) == sizeof data, "write");
    must(nfs_fsync(nfs, file) == 0, "fsync");
    must(nfs_close(nfs, file) == 0, "close");
    must(nfs_open(nfs, "/c/f", O_RDONLY, &file) == 0, "open");
    must(nfs_pread(nfs, file, 0, sizeof back, back) == sizeof back, "read");
    must(memcmp(data, back, sizeof data) == 0, "compare");
    must(nfs_close(nfs, file) == 0, "close");
    must(nfs_symlink(nfs, "../elsewhere", "/c/sym") == 0, "symlink");
    must(nfs_readlink(nfs, "/c/sym", text, sizeof text) == 0, "readlink");
    must(strcmp(text, "../elsewhere") == 0, "link target");
    must(nfs_link(nfs, "/c/f", "/c/hard") == 0, "link");
    must(nfs_rename(nfs, "/c/f", "/c/deep/moved") == 0, "rename");
    must(nfs_mknod(nfs, "/c/fifo", S_IFIFO | 0600, 0) == 0, "mknod");
    must(nfs_chmod(nfs, "/c/hard", 0444) == 0, "chmod");
    must(nfs_utimes(nfs, "/c/hard", times) == 0, "utimes");
    must(nfs_truncate(nfs, "/c/hard", 1234) == 0, "truncate");
    must(nfs_access(nfs, "/c/hard", R_OK) == 0, "access");
    must(nfs_statvfs(nfs, "/c", &fs) == 0 && fs.f_blocks > 0, "statvfs");
    must(nfs_stat64(nfs, "/c/gone", &st) < 0, "a name that is not there");
    must(nfs_stat64(nfs, "/c/deep/moved", &st) == 0, "stat");
    must(st.nfs_size == 1234 && st.nfs_nlink == 2 && (st.nfs_mode & 07777) == 0444, "attributes");
    must(nfs_mkdir(nfs, "/c/empty") == 0 && nfs_rmdir(nfs, "/c/empty") == 0, "rmdir");
    must(nfs_creat(nfs, "/c/short", 0600, &file) == 0 && nfs_close(nfs, file) == 0, "creat");
    must(nfs_unlink(nfs, "/c/short") == 0, "unlink");
    must(nfs_rmdir(nfs, "/c") < 0, "a directory that is not empty");
    must(nfs_opendir(nfs, "/c", &dir) == 0, "opendir");
    while ((entry = nfs_readdir(nfs, dir)) != NULL) {
        names++;
        if (strcmp(entry->name, "hard") == 0)
            must(entry->inode == st.nfs_ino && entry->dev == st.nfs_dev, "inode of the entry");
    }
    nfs_closedir(nfs, dir);
    must(names == 6, "deep fifo hard sym . ..");
    printf("%llu %llu\n", (unsigned long long)st.nfs_ino, (unsigned long long)st.nfs_dev);
    nfs_destroy_url(url);
    nfs_destroy_context(nfs);
    return 0;
}
